"""Residual networks of basic blocks for small images. He, Zhang, Ren & Sun 2015, arXiv 1512.03385.

Given: a 3x3 convolution with batch norm and ReLU, then stages of basic blocks: two 3x3 convolutions with batch norm
and a shortcut around both; the first one of each stage but the first has stride 2. Where its size changes, the
shortcut is a 1x1 convolution with batch norm (ResNet-18), or every second pixel and zeros for the new channels
(ResNet-56). Usual for images of 32 pixels: no pooling behind the first convolution of ResNet-18, whose stride is 1.

The units are the first convolution and each basic block. A shortcut lies within its unit, so walls between units cross
none. "The Price of Locality", arXiv 2609.33240, trains such nets at five walls, which we take to be five blocks of
equally many units, as nearly as they can be divided: of ResNet-18 the first convolution and its four stages.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from forwardonly.bodies.convolutional import scaled
from forwardonly.bodies.layers import Body, Layer
from forwardonly.ops.convolution import conv, conv3x3


class Padded(nn.Module):
    """A shortcut without parameters: zeros for the new channels, half of them in front."""

    def __init__(self, more: int):
        super().__init__()
        self.more = more

    def forward(self, maps: Tensor) -> Tensor:
        front = self.more // 2
        return F.pad(maps, (0, 0, 0, 0, front, self.more - front))


class BasicBlock(nn.Module):
    """ReLU of two convolutions plus the shortcut: (B, K, H, W) -> (B, K', H / stride, W / stride), rounded up."""

    def __init__(self, fan_in: int, fan_out: int, stride: int, *, projected: bool):
        super().__init__()
        self.convolved = nn.Sequential(
            conv3x3(fan_in, fan_out, stride=stride),
            nn.BatchNorm2d(fan_out),
            nn.ReLU(),
            conv3x3(fan_out, fan_out),
            nn.BatchNorm2d(fan_out),
        )
        self.stride = stride
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 and projected:
            self.shortcut = nn.Sequential(conv(fan_in, fan_out, 1), nn.BatchNorm2d(fan_out))
        elif stride > 1:
            self.shortcut = Padded(fan_out - fan_in)

    def forward(self, maps: Tensor) -> Tensor:
        # A 1 x 1 convolution with a stride, channels last, of fewer than 8 channels writes beyond its memory on
        # processors without AVX-512 (torch 2.13): so the pixels are taken before it.
        taken = maps[:, :, :: self.stride, :: self.stride] if self.stride > 1 else maps
        return F.relu(self.convolved(maps) + self.shortcut(taken))


@dataclass(frozen=True, kw_only=True)
class ResNet(Body):
    """Base of the residual networks of basic blocks."""

    name: ClassVar[str]
    channels: ClassVar[tuple[int, ...]]
    """Channels of each stage."""
    depth: ClassVar[int]
    """Basic blocks of each stage."""
    projected: ClassVar[bool]
    """Whether shortcuts that change size are convolutions."""

    width: float = 1.0
    """Factor on the channels."""
    walls: int | None = None
    """Blocks, each with a wall behind it; none is one behind the first convolution and behind every basic block."""

    def layers(self, shape: Sequence[int]) -> list[Layer]:
        fan_in = scaled(self.channels[0], self.width)
        units: list[nn.Module] = [nn.Sequential(conv3x3(shape[0], fan_in), nn.BatchNorm2d(fan_in), nn.ReLU())]
        for stage, channels in enumerate(self.channels):
            fan_out = scaled(channels, self.width)
            for index in range(self.depth):
                stride = 2 if stage > 0 and index == 0 else 1
                units.append(BasicBlock(fan_in, fan_out, stride, projected=self.projected))
                fan_in = fan_out
        walls = len(units) if self.walls is None else self.walls
        if not 1 <= walls <= len(units):
            raise ValueError(f"{self.name} has {len(units)} units: walls must be from 1 to {len(units)}, not {walls}.")
        ends = [len(units) * wall // walls for wall in range(walls + 1)]
        parts = [units[start:end] for start, end in itertools.pairwise(ends)]
        return [Layer(part[0] if len(part) == 1 else nn.Sequential(*part)) for part in parts]


@dataclass(frozen=True, kw_only=True)
class ResNet18(ResNet):
    """ResNet-18 for small images: eight basic blocks of 64 to 512 channels, 11.2 M weights at width 1."""

    name = "resnet18"
    channels = (64, 128, 256, 512)
    depth = 2
    projected = True


@dataclass(frozen=True, kw_only=True)
class ResNet56(ResNet):
    """ResNet-56 for small images: 27 basic blocks of 16 to 64 channels, 0.85 M weights at width 1."""

    name = "resnet56"
    channels = (16, 32, 64)
    depth = 9
    projected = False
