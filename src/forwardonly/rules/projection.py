"""Local cross-entropy of a linear classifier on the pooled activation.

"Local prediction loss" of Nokland & Eidnes 2019, arXiv 1901.06656; on flat activations it is Mono-Forward, arXiv
2501.09238. Given: average pooling to about 2048 features, one linear layer, softmax cross-entropy. Reconstruction: the
pooling windows.

Shapes: B batch, C classes, K channels, g windows.
"""

from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor, nn

from forwardonly.ops.pooling import grid_for, grid_pool, grid_size
from forwardonly.ops.scores import scores_of
from forwardonly.rules.base import BlockPosition, OnePassRule
from forwardonly.rules.own_head import OwnHead
from forwardonly.targets import KINDS, OBJECTIVES


@dataclass(kw_only=True, eq=False)
class Projection(OnePassRule):
    """Cross-entropy of a linear classifier. Owns `classifier`, (K g) -> C, or `own_head`."""

    features: int = 2048
    """Features left by average pooling, approximately; the linear classifier reads them."""
    label_smoothing: float = 0.0
    """Label smoothing: share of the target spread evenly over all classes; numbers have none."""

    learns = frozenset(KINDS)
    not_sizes = frozenset({"features"})
    training_defaults = MappingProxyType({"learning_rate": 5e-3})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.own_head: OwnHead | None = None
        if self.features < 1 or not 0 <= self.label_smoothing < 1:
            raise ValueError("features must be at least 1, and label_smoothing from 0 to below 1.")

    def setup(self, shape: tuple[int, ...], position: BlockPosition) -> None:
        self.grid = grid_for(shape, self.features)
        self.own_head = position.own_head
        if self.own_head is None:
            self.classifier = nn.Linear(grid_size(shape, self.grid), self.classes)

    def scores(self, activation: Tensor) -> Tensor:
        features = grid_pool(activation, self.grid)
        if self.own_head is not None:
            return self.own_head(features)
        return scores_of(features, self.classifier.weight, self.classifier.bias)

    def loss(self, activation: Tensor, labels: Tensor) -> Tensor:
        if self.own_head is not None:
            return self.own_head.loss(grid_pool(activation, self.grid), labels, self.label_smoothing)
        return OBJECTIVES[self.targets].loss(self.scores(activation), labels, self.label_smoothing)
