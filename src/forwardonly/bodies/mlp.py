"""The multilayer perceptron."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from forwardonly.bodies.layers import Layer


@dataclass(frozen=True, kw_only=True)
class MLP:
    """Fully connected layers with ReLU; the first one flattens the image."""

    hidden: tuple[int, ...] = (1000, 1000)
    """Units of each layer."""
    dropout: float = 0.0
    """Share of each layer's inputs, pixels apart, that is dropped in training."""

    def layers(self, shape: Sequence[int]) -> list[Layer]:
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden must name at least one layer of 1 unit or more, not {self.hidden}.")
        sizes = [math.prod(shape), *self.hidden]
        layers = []
        for index, (fan_in, fan_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            first: nn.Module = nn.Flatten() if index == 0 else nn.Dropout(self.dropout)
            layers.append(Layer(nn.Sequential(first, nn.Linear(fan_in, fan_out), nn.ReLU())))
        return layers
