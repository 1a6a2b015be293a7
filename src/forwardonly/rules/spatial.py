"""Spatial goodness: a fixed random projection of channel energies on a grid. ASGE, arXiv 2509.12394.

Given: the energy of each channel on a P x P grid, a random projection to class scores that is never trained,
cross-entropy. Reconstruction: energy is the mean square; energies are standardised for each example, so that scores do
not depend on scale; the projection's entries are normal with deviation 1/sqrt(D); the scores have an inverse
temperature.

Shapes: B batch, C classes, K channels, P grid, D = K P P energies.
"""

import math
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from forwardonly.ops.norms import instance_norm
from forwardonly.ops.pooling import grid_pool, grid_size
from forwardonly.rules.base import BlockPosition, OnePassRule, float32


def energy(activation: Tensor, grid: int) -> Tensor:
    """Mean square of each channel in each window of the grid: (B, K, H, W) -> (B, K P P); of (B, D) the squares."""
    return grid_pool(float32(activation).square(), grid)


@dataclass(kw_only=True, eq=False)
class Spatial(OnePassRule):
    """Cross-entropy of a fixed random projection of the energies. No parameters; `projection` (D, C) is a buffer."""

    grid: int = 4
    """Windows a side of the grid on which energies are measured."""
    scale: float = 4.0
    """Inverse temperature of the softmax: a factor on the scores."""
    label_smoothing: float = 0.0
    """Label smoothing: share of the target spread evenly over all classes."""

    training_defaults = MappingProxyType({"learning_rate": 5e-3})
    normalises = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.grid < 1 or self.scale <= 0 or not 0 <= self.label_smoothing < 1:
            raise ValueError("grid must be at least 1, scale positive, and label_smoothing from 0 to below 1.")

    def setup(self, shape: tuple[int, ...], position: BlockPosition) -> None:
        size = grid_size(shape, self.grid)
        self.projection = nn.Buffer(torch.randn(size, self.classes) / math.sqrt(size))

    def scores(self, activation: Tensor) -> Tensor:
        with torch.autocast(activation.device.type, enabled=False):
            energies = energy(activation, self.grid)
            return self.scale * F.layer_norm(energies, energies.shape[1:]) @ self.projection

    def loss(self, activation: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.scores(activation), labels, label_smoothing=self.label_smoothing)

    def pass_on(self, activation: Tensor) -> Tensor:
        return instance_norm(activation)
