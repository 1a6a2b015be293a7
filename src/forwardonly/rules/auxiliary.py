"""Local cross-entropy behind a small network of the block's own.

Decoupled greedy learning, Belilovsky, Eickenberg & Oyallon 2020, arXiv 1901.08164: each layer is judged by an auxiliary
network that is thrown away by the next one, and one that first pools its input and is dense then costs little and does
nearly as well as a convolutional one. Reconstruction: the forms of both heads. Hidden layers have batch norm and GELU,
and a linear layer reads the last.

Shapes: B batch, C classes, K channels.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from torch import Tensor, nn

from forwardonly.maps import grid_for, grid_pool, grid_size
from forwardonly.rules.base import Place
from forwardonly.rules.projection import Projection

SMALLEST = 4  # pixels a side; a smaller map keeps its size under strides


@dataclass(kw_only=True, eq=False)
class Auxiliary(Projection):
    """Cross-entropy of a linear map behind `depth` hidden layers of the rule's own. Owns `hidden` and `head`.

    The gradient of the head stops at the block's wall like any other: what it costs is counted as the block's.
    """

    features: int = 1024
    """Feature maps are averaged over windows, as many as bring them nearest to this many features: before the hidden
    layers where these are dense, behind them where they are convolutions."""
    shrink: Literal["pool", "stride"] = "pool"
    """How maps become small: pooled for dense hidden layers, or by the strides of hidden convolutions."""
    units: int = 256
    """Units of each dense hidden layer, or channels of each convolution."""
    depth: int = 1
    """Hidden layers of the head."""

    recipe = MappingProxyType({"learning_rate": 5e-3})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.units < 1 or self.depth < 1:
            raise ValueError("units and depth of an auxiliary head must be at least 1.")

    def setup(self, shape: tuple[int, ...], place: Place) -> None:
        self.pooled = grid_for(shape, self.features) if self.shrink == "pool" else None
        if self.pooled is not None:
            shape = (grid_size(shape, self.pooled),)
        layers: list[nn.Module] = []
        for _ in range(self.depth):
            if len(shape) == 3:
                stride = 2 if min(shape[1:]) > SMALLEST else 1
                layers += [
                    nn.Conv2d(shape[0], self.units, 3, stride, padding=1, bias=False),
                    nn.BatchNorm2d(self.units),
                ]
                shape = (self.units, *(-(-side // stride) for side in shape[1:]))
            else:
                layers += [nn.Linear(shape[0], self.units, bias=False), nn.BatchNorm1d(self.units)]
                shape = (self.units,)
            layers.append(nn.GELU())
        self.hidden = nn.Sequential(*layers)
        super().setup(shape, place)

    def scores(self, activation: Tensor) -> Tensor:
        pooled = activation if self.pooled is None else grid_pool(activation, self.pooled)
        return super().scores(self.hidden(pooled))
