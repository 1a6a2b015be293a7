"""Depthwise-separable convolutions for small devices: keywords, motion, small pictures.

A depthwise convolution filters each channel by itself and a pointwise one mixes the channels: Howard et al. 2017,
"MobileNets", arXiv 1704.04861; Zhang et al. 2017, "Hello Edge: Keyword Spotting on Microcontrollers", arXiv 1711.07128,
whose DS-CNN is such a row behind one plain convolution. Ours: no batch norm, which would compare the images of a batch,
so that a network can learn from one example at a time.

Signals of one dimension, such as sounds and motion, are maps of height 1: (B, channels, 1, time).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from forwardonly.bodies.layers import Body, Layer
from forwardonly.ops.norms import instance_norm


@dataclass(frozen=True, kw_only=True)
class Separable(Body):
    """A plain convolution, then depthwise-separable ones, all with ReLU; one-dimensional on maps of height 1."""

    channels: tuple[int, ...] = (16, 32, 32, 32)
    """Channels of each layer."""
    kernel: int = 3
    """Side of the kernels, an odd number."""
    pools: int = 2
    """How many of the first layers halve their maps."""

    def layers(self, shape: Sequence[int]) -> list[Layer]:
        if not self.channels or min(self.channels) < 1:
            raise ValueError(f"channels must name at least one layer of 1 channel or more, not {self.channels}.")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"kernel must be an odd number of at least 1, not {self.kernel}.")
        if not 0 <= self.pools <= len(self.channels):
            raise ValueError(f"pools must be from 0 to the {len(self.channels)} layers, not {self.pools}.")
        line = shape[1] == 1
        sides = shape[2:] if line else shape[1:]
        if min(sides) >> self.pools == 0:
            raise ValueError(
                f"The body 'separable' halves its maps {self.pools} times: they must be at least {1 << self.pools} "
                f"long, not {min(sides)}."
            )
        kernel = (1, self.kernel) if line else (self.kernel, self.kernel)
        padding = (kernel[0] // 2, kernel[1] // 2)
        layers, incoming = [], shape[0]
        for index, channels in enumerate(self.channels):
            parts: list[nn.Module] = []
            if index:
                parts.append(nn.Conv2d(incoming, incoming, kernel, padding=padding, groups=incoming, bias=False))
                # Without a ReLU behind it, this one alone keeps the scale.
                nn.init.kaiming_normal_(parts[-1].weight, nonlinearity="linear")  # type: ignore[arg-type]
                parts.append(nn.Conv2d(incoming, channels, 1))
            else:
                parts.append(nn.Conv2d(incoming, channels, kernel, padding=padding))
            nn.init.kaiming_normal_(parts[-1].weight, nonlinearity="relu")  # type: ignore[arg-type]
            nn.init.zeros_(parts[-1].bias)  # type: ignore[arg-type]
            if index < self.pools:
                parts.append(nn.MaxPool2d((1, 2) if line else 2))
            layers.append(Layer(nn.Sequential(*parts, nn.ReLU()), norm=instance_norm))
            incoming = channels
        return layers
