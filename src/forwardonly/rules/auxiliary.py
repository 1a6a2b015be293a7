"""Local cross-entropy behind a small convolutional head of the block's own.

Decoupled greedy learning, Belilovsky, Eickenberg & Oyallon 2020, arXiv 1901.08164: each layer is judged by an auxiliary
network that is thrown away by the next one. Reconstruction: the form of the head. Strided 3x3 convolutions with batch
norm and GELU shrink the map at once, so that the head costs little beside the block, and a linear layer reads the rest.

Shapes: B batch, C classes, K channels.
"""

from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor, nn

from forwardonly.rules.base import Place
from forwardonly.rules.projection import Projection

SMALLEST = 4  # pixels a side; a smaller map keeps its size


@dataclass(kw_only=True, eq=False)
class Auxiliary(Projection):
    """Cross-entropy of a linear map behind `depth` hidden layers of the rule's own. Owns `hidden` and `head`.

    The gradient of the head stops at the block's wall like any other: what it costs is counted as the block's.
    """

    channels: int = 128
    """Channels of each hidden convolution, or units of each hidden layer where activations are flat."""
    depth: int = 2
    """Hidden layers of the head."""

    recipe = MappingProxyType({"learning_rate": 5e-3})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels < 1 or self.depth < 1:
            raise ValueError("channels and depth of an auxiliary head must be at least 1.")

    def setup(self, shape: tuple[int, ...], place: Place) -> None:
        layers: list[nn.Module] = []
        for _ in range(self.depth):
            if len(shape) == 3:
                stride = 2 if min(shape[1:]) > SMALLEST else 1
                layers += [
                    nn.Conv2d(shape[0], self.channels, 3, stride, padding=1, bias=False),
                    nn.BatchNorm2d(self.channels),
                ]
                shape = (self.channels, *(-(-side // stride) for side in shape[1:]))
            else:
                layers += [nn.Linear(shape[0], self.channels, bias=False), nn.BatchNorm1d(self.channels)]
                shape = (self.channels,)
            layers.append(nn.GELU())
        self.hidden = nn.Sequential(*layers)
        super().setup(shape, place)

    def scores(self, activation: Tensor) -> Tensor:
        return super().scores(self.hidden(activation))
