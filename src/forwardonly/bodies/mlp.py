"""The multilayer perceptron."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from forwardonly.bodies.convolutional import check_dropout
from forwardonly.bodies.dropout import Dropout
from forwardonly.bodies.layers import Body, Layer


@dataclass(frozen=True, kw_only=True)
class MLP(Body):
    """Fully connected layers with ReLU; the first one flattens the image."""

    hidden: tuple[int, ...] = (1000, 1000)
    """Units of each layer."""
    dropout: float = 0.0
    """Share of each layer's inputs, pixels apart, that is dropped in training."""

    def layers(self, shape: Sequence[int]) -> list[Layer]:
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden must name at least one layer of 1 unit or more, not {self.hidden}.")
        check_dropout(self.dropout)
        sizes = [math.prod(shape), *self.hidden]
        layers = []
        for index, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            first: nn.Module = nn.Flatten() if index == 0 else Dropout(self.dropout)
            linear = nn.Linear(fan_in, fan_out)
            # Inputs have unit mean square under every rule here; He initialisation keeps it through a layer with ReLU.
            nn.init.kaiming_uniform_(linear.weight, nonlinearity="relu")
            nn.init.zeros_(linear.bias)
            layers.append(Layer(nn.Sequential(first, linear, nn.ReLU())))
        return layers
