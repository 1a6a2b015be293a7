"""ResNet-17 with parameter-free shortcuts. DeeperForward, ICLR 2025; arXiv 2606.09928 trains the same net.

Given: a per-sample layer norm of the input; a stem convolution to 100 channels; four stages of four convolutions, 100
to 800 channels, stride 2 at the first of stages 2 to 4; on detached, normalised maps, ADD after the second convolution
of a stage and CONCAT after the fourth, average-pooled where the size changes; dropout 0.1. Every convolution, the
stem's too, is a block of its own.

Signal: a map (B, K, H, W), or within a pair of convolutions (map, the pair's input as shortcut).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from forwardonly.bodies.convolutional import check_dropout, scaled
from forwardonly.bodies.dropout import Dropout
from forwardonly.bodies.layers import Body, Layer, LayerNormStem, Stem
from forwardonly.ops.convolution import conv3x3
from forwardonly.ops.norms import instance_norm

Pair = tuple[Tensor, Tensor]


def keep_shortcut(passed: Tensor, incoming: Tensor) -> Pair:
    """After the first convolution of a pair: its output, and its input as the shortcut."""
    return passed, incoming


def add(passed: Tensor, incoming: Pair) -> Tensor:
    """passed + shortcut, which is average-pooled to the same size where necessary."""
    return passed + _fitted(incoming[1], passed)


def concat(passed: Tensor, incoming: Pair) -> Tensor:
    """[passed, shortcut] as channels, so that the next stage receives twice as many."""
    return torch.cat([passed, _fitted(incoming[1], passed)], dim=1)


def _fitted(shortcut: Tensor, passed: Tensor) -> Tensor:
    """The shortcut at the size of the map; pooling in ceiling mode rounds an odd size up, as a stride of 2 does."""
    return shortcut if shortcut.shape[2:] == passed.shape[2:] else F.avg_pool2d(shortcut, 2, ceil_mode=True)


@dataclass(frozen=True, kw_only=True)
class ResNet17(Body):
    """17 convolutions with parameter-free shortcuts and instance norm between them, 30.6 M weights at width 1."""

    width: float = 1.0
    """Factor on the channels of the four stages, 100-200-400-800 at 1."""
    dropout: float = 0.1
    """Share of each layer's outputs that is dropped in training."""

    def stem(self, shape: Sequence[int]) -> Stem:
        return LayerNormStem()

    def layers(self, shape: Sequence[int]) -> list[Layer]:
        check_dropout(self.dropout)
        channels = scaled(100, self.width)
        layers = [Layer(self._conv(shape[0], channels, 1), None, instance_norm)]
        for stage in range(4):
            stride = 1 if stage == 0 else 2
            joins = (keep_shortcut, add, keep_shortcut, concat if stage < 3 else None)
            for index, join in enumerate(joins):
                body = self._conv(channels, channels, stride if index == 0 else 1)
                layers.append(Layer(body, join, instance_norm))
            channels *= 2
        return layers

    def _conv(self, fan_in: int, fan_out: int, stride: int) -> nn.Module:
        return nn.Sequential(conv3x3(fan_in, fan_out, stride=stride), nn.ReLU(), Dropout(self.dropout))
