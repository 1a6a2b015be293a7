"""Local cross-entropy behind a small network of the block's own.

Decoupled greedy learning, Belilovsky, Eickenberg & Oyallon 2020, arXiv 1901.08164: each layer is judged by an auxiliary
network of convolutions, pooling and dense layers that is thrown away by the next one. Reconstruction: how many of each,
the strides, and batch norm with GELU behind each.

Shapes: B batch, C classes, K channels.
"""

from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor, nn

from forwardonly.ops.convolution import conv3x3
from forwardonly.ops.pooling import grid_for, grid_pool, grid_size
from forwardonly.rules.base import BlockPosition
from forwardonly.rules.projection import Projection

LEAST = 3  # pixels a side; a map that would have fewer is not halved


@dataclass(kw_only=True, eq=False)
class Auxiliary(Projection):
    """Cross-entropy of a linear map behind hidden layers of the rule's own: strided 3x3 convolutions, pooling, dense
    layers. Owns `convolved`, `hidden` and `head`.

    The gradient of the head stops at the block's wall like any other: what it costs is counted as the block's.
    """

    convolutions: int = 1
    """Convolutions in front of the pooling, each with stride 2 until maps are small; none on flat activations."""
    coarse: bool = False
    """Whether average pooling halves the maps in front of the convolutions, and each halving rounds down (7 pixels
    become 3, not 4), which saves much of the head's time."""
    fine: int = 0
    """How many of the first blocks have no coarse head even so: what they lose is lost to those behind them."""
    linear: int = 0
    """How many of the last blocks a linear map alone judges: few or none learn from what they pass on."""
    channels: int = 64
    """Channels of each convolution."""
    features: int = 1024
    """Maps are averaged over windows, as many as bring them nearest to this many features; the dense layers read
    those."""
    depth: int = 1
    """Dense hidden layers."""
    units: int = 256
    """Units of each of them."""

    training_defaults = MappingProxyType({"learning_rate": 5e-3})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("convolutions", "fine", "linear", "depth", "channels", "units"):
            least = int(name in ("channels", "units"))
            if getattr(self, name) < least:
                raise ValueError(f"{name} of an auxiliary head must be at least {least}, not {getattr(self, name)}.")

    def setup(self, shape: tuple[int, ...], position: BlockPosition) -> None:
        linear = position.index >= position.depth - self.linear
        coarse = self.coarse and position.index >= self.fine
        maps: list[nn.Module] = []
        convolutions = self.convolutions if len(shape) == 3 and not linear else 0
        channels, *sides = shape
        if convolutions and coarse:
            stride, padding, sides = _halving(sides, coarse)
            maps += [nn.AvgPool2d(3, stride, padding, count_include_pad=False)] if stride > 1 else []
        for _ in range(convolutions):
            stride, padding, sides = _halving(sides, coarse)
            convolution = conv3x3(channels, self.channels, stride=stride, padding=padding)
            maps += [convolution, nn.BatchNorm2d(self.channels), nn.GELU()]
            channels = self.channels
        self.convolved = nn.Sequential(*maps)
        shape = (channels, *sides)
        self.pooled = grid_for(shape, self.features)
        dense: list[nn.Module] = []
        features = grid_size(shape, self.pooled)
        for _ in range(0 if linear else self.depth):
            dense += [nn.Linear(features, self.units, bias=False), nn.BatchNorm1d(self.units), nn.GELU()]
            features = self.units
        self.hidden = nn.Sequential(*dense)
        super().setup((features,), position)

    def scores(self, activation: Tensor) -> Tensor:
        return super().scores(self.hidden(grid_pool(self.convolved(activation), self.pooled)))


def _halving(sides: list[int], coarse: bool) -> tuple[int, tuple[int, int], list[int]]:
    """Stride and padding with which 3x3 windows halve maps, and the sides then; small maps stay as they are."""
    high, wide = (int(side % 2 == 0 or not coarse) for side in sides)
    halves = [(side + pad) // 2 for side, pad in zip(sides, (high, wide), strict=True)]
    return (2, (high, wide), halves) if min(halves) >= LEAST else (1, (1, 1), sides)
