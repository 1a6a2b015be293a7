"""Local cross-entropy behind an auxiliary network.

Decoupled greedy learning, Belilovsky, Eickenberg & Oyallon 2020, arXiv 1901.08164. Given: each block learns through an
auxiliary network of convolutions, pooling and dense layers, which is not part of the network that the next block
continues. Reconstruction: the number of layers, the strides, and batch norm with GELU behind each. Ours: tapered heads.

Shapes: B batch, C classes, K channels.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from torch import Tensor, nn

from forwardonly.ops.convolution import conv3x3
from forwardonly.ops.pooling import grid_for, grid_pool, grid_size
from forwardonly.rules.base import BlockPosition
from forwardonly.rules.projection import Projection

FULL_HEADS = 2  # tapered: blocks from the first on that have a full head
SMALLEST_SIDE = 3  # pixels; a map is halved only if both sides keep at least as many


@dataclass(kw_only=True, eq=False)
class Auxiliary(Projection):
    """Cross-entropy of a linear classifier behind strided 3x3 convolutions, pooling and dense layers.

    Owns `convolved` (the convolutions), `hidden` (the dense layers) and `classifier`. Their cost counts as the block's.
    """

    head: Literal["uniform", "tapered"] = "uniform"
    """Heads: the same behind every block (uniform), or full heads behind the first two blocks, cheaper ones on
    average-pooled maps behind the others, and a linear classifier alone behind the last (tapered)."""
    convolutions: int = 1
    """Convolutions before the pooling, each with stride 2 until maps are small; none on flat activations."""
    channels: int = 64
    """Channels of each convolution."""
    features: int = 1024
    """Features left by average pooling, approximately; the dense layers or the classifier read them."""
    depth: int = 1
    """Dense hidden layers."""
    units: int = 256
    """Units of each dense hidden layer."""

    expert = frozenset({"units"})
    training_defaults = MappingProxyType({"learning_rate": 5e-3})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("convolutions", 0), ("depth", 0), ("channels", 1), ("units", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} of an auxiliary head must be at least {least}, not {getattr(self, name)}.")

    def setup(self, shape: tuple[int, ...], position: BlockPosition) -> None:
        tapered = self.head == "tapered"
        linear = tapered and position.index == position.depth - 1
        coarse = tapered and position.index >= FULL_HEADS
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
    """Stride and padding of 3x3 windows that halve a map, and its sides afterwards. Small maps keep their size.

    Odd sides are rounded up, in coarse heads down (7 pixels become 3, not 4).
    """
    high, wide = (int(side % 2 == 0 or not coarse) for side in sides)
    halves = [(side + pad) // 2 for side, pad in zip(sides, (high, wide), strict=True)]
    return (2, (high, wide), halves) if min(halves) >= SMALLEST_SIDE else (1, (1, 1), sides)
