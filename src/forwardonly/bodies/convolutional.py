"""Convolutional bodies without shortcuts. A block is one convolution with its pooling, norm and activation.

Batch norm is part of its block and trains no earlier one, so it is allowed under any rule.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from forwardonly.bodies.dropout import Dropout
from forwardonly.bodies.layers import Body, Layer, Whitening
from forwardonly.ops.convolution import conv3x3


class ConvSpec(NamedTuple):
    """One convolution: its number of channels, and whether 2 x 2 max-pooling follows."""

    channels: int
    pool: bool = False


def scaled(channels: int, width: float) -> int:
    """The number of channels times a width factor, rounded.

    Raises:
        ValueError: the factor leaves no channel.
    """
    if round(channels * width) < 1:
        raise ValueError(f"width {width} leaves no channel of {channels}: choose a larger one.")
    return round(channels * width)


def convolutions(
    name: str,
    shape: Sequence[int],
    plan: Sequence[ConvSpec],
    *,
    activation: type[nn.Module],
    norm: bool = True,
    dropout: float = 0.0,
    stem: Whitening | None = None,
) -> list[Layer]:
    """3x3 convolutions for images of `shape`, each followed by pooling if planned, batch norm, activation, dropout.

    Raises:
        ValueError: the maps behind the stem are too small to be halved as often as planned, or dropout is not a share.
    """
    window, stride = (1, 1) if stem is None else (stem.WINDOW, stem.stride)
    require_halvings(name, shape, sum(step.pool for step in plan), window, stride)
    check_dropout(dropout)
    layers, channels = [], shape[0] if stem is None else stem.channels
    for step in plan:
        parts: list[nn.Module] = [conv3x3(channels, step.channels, bias=not norm)]
        if step.pool:
            parts.append(nn.MaxPool2d(2))
        if norm:
            parts.append(nn.BatchNorm2d(step.channels))
        parts.append(activation())
        if dropout:
            parts.append(Dropout(dropout))
        layers.append(Layer(nn.Sequential(*parts)))
        channels = step.channels
    return layers


def require_halvings(name: str, shape: Sequence[int], halvings: int, window: int = 1, stride: int = 1) -> None:
    """Raises ValueError unless images of `shape` can be halved that often, behind a stem of this window and stride."""
    if (min(shape[1:]) - window) // stride + 1 >> halvings < 1:
        raise ValueError(
            f"The body {name!r} halves its maps {halvings} times: images must be at least "
            f"{((1 << halvings) - 1) * stride + window} pixels a side, not {min(shape[1:])}."
        )


def check_dropout(dropout: float) -> None:
    """Raises ValueError unless dropout is a share from 0 to below 1."""
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is a share from 0 to below 1, not {dropout}.")


@dataclass(frozen=True, kw_only=True)
class CNN(Body):
    """A small plain CNN, 4 convolutions of 64 to 256 channels with batch norm."""

    width: float = 1.0
    """Factor on the channels, 64-128-256-256 at 1."""
    dropout: float = 0.0
    """Share of each layer's outputs that is dropped in training."""

    def layers(self, shape: Sequence[int]) -> list[Layer]:
        plan = [
            ConvSpec(scaled(channels, self.width), pool) for channels, pool in ((64, True), (128, True), (256, False))
        ]
        plan.append(ConvSpec(scaled(256, self.width), pool=True))
        return convolutions("cnn", shape, plan, activation=nn.ReLU, dropout=self.dropout)


@dataclass(frozen=True, kw_only=True)
class Conv(Body):
    """A plain row of equal convolutions with ReLU and no norm, for measurements of time and memory."""

    depth: int = 8
    """Number of convolutions."""
    channels: int = 128
    """Channels of each."""

    def layers(self, shape: Sequence[int]) -> list[Layer]:
        if self.depth < 1 or self.channels < 1:
            raise ValueError(f"depth and channels must be at least 1, not {self.depth} and {self.channels}.")
        return convolutions("conv", shape, [ConvSpec(self.channels)] * self.depth, activation=nn.ReLU, norm=False)


@dataclass(frozen=True, kw_only=True)
class Six(Body):
    """Six convolutions with batch norm and GELU behind a whitening stem, 2.0 M weights at width 1.

    The shape of Keller Jordan's airbench94 (arXiv 2404.00498): three pairs of 64, 256 and 256 channels, each pair's
    first one followed by 2 x 2 max-pooling.
    """

    width: float = 1.0
    """Factor on the channels, 64-64-256-256-256-256 at 1."""
    dropout: float = 0.0
    """Share of each layer's outputs that is dropped in training."""
    stride: int = 1
    """Stride of the stem: 2 halves images of 64 pixels before the first block."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stride not in (1, Whitening.WINDOW):
            raise ValueError(f"stride must be 1 or 2, as the stem reads windows of 2 pixels, not {self.stride}.")

    def stem(self, shape: Sequence[int]) -> Whitening:
        return Whitening(shape[0], self.stride)

    def layers(self, shape: Sequence[int]) -> list[Layer]:
        plan = [ConvSpec(scaled(channels, self.width), first) for channels in (64, 256, 256) for first in (True, False)]
        return convolutions("six", shape, plan, activation=nn.GELU, dropout=self.dropout, stem=self.stem(shape))


@dataclass(frozen=True, kw_only=True)
class VGG8b(Body):
    """VGG8b of Nokland & Eidnes 2019, arXiv 1901.06656: six convolutions and one linear layer, batch norm and ReLU."""

    width: float = 1.0
    """Factor on the channels, 128-256-256-512-512-512 and 1024 units at 1."""
    dropout: float = 0.05
    """Share of each layer's outputs that is dropped in training."""

    def layers(self, shape: Sequence[int]) -> list[Layer]:
        sizes = ((128, False), (256, True), (256, False), (512, True), (512, True), (512, True))
        plan = [ConvSpec(scaled(channels, self.width), pool) for channels, pool in sizes]
        layers = convolutions("vgg8b", shape, plan, activation=nn.ReLU, dropout=self.dropout)
        features, units = plan[-1].channels * (shape[1] // 16) * (shape[2] // 16), scaled(1024, self.width)
        linear = nn.Linear(features, units, bias=False)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        parts = [nn.Flatten(), linear, nn.BatchNorm1d(units), nn.ReLU(), Dropout(self.dropout)]
        return [*layers, Layer(nn.Sequential(*parts))]
