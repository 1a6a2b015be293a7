"""Backpropagation, the baseline: the whole body as one block under a linear classifier with softmax cross-entropy.

A network with this rule has a single block, so training, measurements and files treat it like any other network.
"""

from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor, nn

from forwardonly.rules.base import BlockPosition, OnePassRule, float32
from forwardonly.targets import KINDS, OBJECTIVES


@dataclass(kw_only=True, eq=False)
class Backprop(OnePassRule):
    """Cross-entropy of a linear `classifier` of the last activation, averaged over space.

    The gradient runs through the whole body.
    """

    label_smoothing: float = 0.0
    """Label smoothing: share of the target spread evenly over all classes; numbers have none."""

    learns = frozenset(KINDS)
    end_to_end = True
    training_defaults = MappingProxyType({"weight_decay": 0.1})

    def setup(self, shape: tuple[int, ...], position: BlockPosition) -> None:
        self.classifier = nn.Linear(shape[0], self.classes)

    def scores(self, activation: Tensor) -> Tensor:
        pooled = activation if activation.dim() == 2 else activation.mean((2, 3))
        return float32(self.classifier(pooled))

    def loss(self, activation: Tensor, labels: Tensor) -> Tensor:
        return OBJECTIVES[self.targets].loss(self.scores(activation), labels, self.label_smoothing)
