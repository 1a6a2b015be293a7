"""TinyCNN, four convolutions. DeeperForward, ICLR 2025; arXiv 2606.09928 trains the same net.

Given, by the authors' code, since neither paper prints the net: a per-sample layer norm of the input; convolutions of
5x5, 5x5, 3x3 and 3x3 weights without bias to 100, 200, 400 and 400 channels, padded to keep the size of maps; 2x2
average pooling before the second and the third; ReLU and dropout 0.1 behind each. The first block does not predict.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from forwardonly.bodies.convolutional import check_dropout, require_halvings, scaled
from forwardonly.bodies.dropout import Dropout
from forwardonly.bodies.layers import Body, Layer, LayerNormStem, Stem
from forwardonly.ops.convolution import conv
from forwardonly.ops.norms import instance_norm

PLAN = ((100, 5, False), (200, 5, True), (400, 3, True), (400, 3, False))
"""Channels, side of the weights, and whether 2x2 average pooling comes before."""


@dataclass(frozen=True, kw_only=True)
class TinyCNN(Body):
    """Four wide convolutions without batch norm, instance norm between them, 2.7 M weights at width 1."""

    width: float = 1.0
    """Factor on the channels, 100-200-400-400 at 1."""
    dropout: float = 0.1
    """Share of each layer's outputs that is dropped in training."""

    def stem(self, shape: Sequence[int]) -> Stem:
        return LayerNormStem()

    def layers(self, shape: Sequence[int]) -> list[Layer]:
        check_dropout(self.dropout)
        require_halvings("tinycnn", shape, sum(pool for _, _, pool in PLAN))
        layers, fan_in = [], shape[0]
        for channels, side, pool in PLAN:
            fan_out = scaled(channels, self.width)
            parts: list[nn.Module] = [nn.AvgPool2d(2)] if pool else []
            parts += [conv(fan_in, fan_out, side), nn.ReLU(), Dropout(self.dropout)]
            layers.append(Layer(nn.Sequential(*parts), None, instance_norm))
            fan_in = fan_out
        return layers
