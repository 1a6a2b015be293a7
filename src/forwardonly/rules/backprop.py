"""Backpropagation, the honest baseline: the same body as one block under a linear classifier and cross-entropy.

The network that carries it has one block, so the training loop, the measurements and the files treat it like any other.
"""

from dataclasses import dataclass
from types import MappingProxyType

import torch.nn.functional as F
from torch import Tensor, nn

from forwardonly.rules.base import BlockPosition, OnePassRule, float32


@dataclass(kw_only=True, eq=False)
class Backprop(OnePassRule):
    """Softmax cross-entropy on a linear read-out of the last activation; the gradient runs through the whole body."""

    label_smoothing: float = 0.0
    """Share of the target spread evenly over all classes."""

    end_to_end = True
    training_defaults = MappingProxyType({"weight_decay": 0.1})

    def setup(self, shape: tuple[int, ...], position: BlockPosition) -> None:
        self.head = nn.Linear(shape[0], self.classes)

    def scores(self, activation: Tensor) -> Tensor:
        pooled = activation if activation.dim() == 2 else activation.mean((2, 3))
        return float32(self.head(pooled))

    def loss(self, activation: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.scores(activation), labels, label_smoothing=self.label_smoothing)
