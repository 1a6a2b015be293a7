"""Local cross-entropy of a linear classifier on bilinear features.

Bilinear pooling, Lin, RoyChowdhury & Maji 2015, arXiv 1504.07889. Given: features are the products of all pairs of
channels, averaged over space, and a linear classifier reads them, so that its decision boundaries are quadratic. Ours:
its use as a local objective, products within groups of channels and windows of pixels only, their normalisation to one
length, several linear maps for each class, and Muon for these.

Shapes: B batch, C classes, K channels, M maps a class, P products.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from forwardonly.ops.pooling import grid_for, grid_pool, grid_size, product_pool
from forwardonly.ops.scores import scores_of
from forwardonly.rules.base import BlockPosition
from forwardonly.rules.defaults import MUON
from forwardonly.rules.projection import Projection

CENTRE = 0.28  # the mean of GELU behind a norm; products of activations that are not centred repeat their means
MAPS, MOST = 80, 8  # of all classes, of one: a step of Muon takes time as the square of all
LENGTH = 20.0  # of an image's products, about that of its pooled activation, so that one learning rate suits both


@dataclass(kw_only=True, eq=False)
class Bilinear(Projection):
    """Cross-entropy of a linear classifier on the pooled activation and the pooled products of its channels.

    A class's score is the log-sum-exp of its M linear maps. On flat activations there are no products. Owns
    `classifier`, (K g + P) -> C M, and `logit_scale`, the logarithm of a factor on its weights: Muon, where it is the
    block's optimiser, trains the classifier too and keeps the norm of its weights, so their scale is learned apart.
    """

    group: int = 32
    """Channels in a group; only channels of the same group are multiplied with each other."""
    window: int = 8
    """Largest side in pixels of the windows over which products are averaged. Larger images need larger windows,
    because the number of features grows with the number of windows."""
    maps_per_class: int | None = None
    """Linear maps for each class, by default 8 up to ten classes and fewer for more, down to one from 80 on."""
    map_rate: float = 2.0
    """Learning rate of the linear maps, as a multiple of the block's."""
    label_smoothing: float = 0.05
    """Label smoothing: share of the target spread evenly over all classes."""

    not_sizes = frozenset({"features", "group", "window"})
    training_defaults = MappingProxyType({**MUON, "delay": 0.15})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.maps_per_class is None:
            self.maps_per_class = min(MOST, max(1, MAPS // self.classes))
        for name in ("group", "window", "maps_per_class"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} of a bilinear head must be at least 1, not {getattr(self, name)}.")
        if self.map_rate < 0:
            raise ValueError(f"map_rate of a bilinear head must be at least 0, not {self.map_rate}.")

    def setup(self, shape: tuple[int, ...], position: BlockPosition) -> None:
        self.grid = grid_for(shape, self.features)
        size = grid_size(shape, self.grid)
        if len(shape) == 3:
            size += product_pool(torch.zeros(1, *shape), self.group, self.window).shape[1]
        assert self.maps_per_class is not None
        self.classifier = nn.Linear(size, self.classes * self.maps_per_class)
        self.logit_scale = nn.Parameter(torch.zeros(()))

    def optimiser_options(self) -> dict[str, dict[str, Any]]:
        return {"classifier.weight": {"relative_rate": self.map_rate}}

    def scores(self, activation: Tensor) -> Tensor:
        features = grid_pool(activation, self.grid)
        if activation.dim() == 4:
            products = product_pool(activation - CENTRE, self.group, self.window, LENGTH)
            features = torch.cat([features, products], dim=1)
        scores = self.logit_scale.exp() * scores_of(features, self.classifier.weight) + self.classifier.bias
        return scores.unflatten(1, (self.classes, -1)).logsumexp(2)
