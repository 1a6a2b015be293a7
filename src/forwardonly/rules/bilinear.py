"""Local cross-entropy of a linear map that also reads products of channels: the strongest head without hidden layers.

Bilinear pooling, Lin, RoyChowdhury & Maji 2015, arXiv 1504.07889: what a map says is the mean over its pixels of the
products of each two channels. One linear layer behind that draws quadratic boundaries, and still is one linear layer.
That it is the head of a local rule, products within groups and windows only, their one length, several maps a class,
and Muon for them are ours; `log/` has the trials.

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
from forwardonly.rules.best import MUON
from forwardonly.rules.projection import Projection

CENTRE = 0.28  # the mean of GELU behind a norm; without it products say little but what the means say
LENGTH = 20.0  # of an image's products, about that of its pooled activation: the map's rate suits both


@dataclass(kw_only=True, eq=False)
class Bilinear(Projection):
    """Cross-entropy of a linear map of the pooled activation and of its channels' pooled products. Owns `head`,
    (K g + P) -> C M, and `logit_scale`, the logarithm of what its weights are multiplied by.

    A class's score is the log-sum-exp of its M maps. Flat activations have nothing to pool and no products. Where Muon
    moves the block it moves the maps too, with steps of equal strength for frequent and for rare products; it keeps
    their length, so that the scale says how sure they are.
    """

    group: int = 32
    """Channels that are multiplied with each other; those of different groups are not."""
    window: int = 8
    """Products are averaged over windows of at most this many pixels a side; their number grows with the map, so larger
    images want larger windows."""
    maps_per_class: int = 8
    """Linear maps M that each class has."""
    map_rate: float = 2.0
    """Learning rate of the maps, as a multiple of the block's."""
    label_smoothing: float = 0.05
    """Share of the target spread evenly over all classes."""

    training_defaults = MappingProxyType({**MUON, "delay": 0.15})

    def __post_init__(self) -> None:
        super().__post_init__()
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
        self.head = nn.Linear(size, self.classes * self.maps_per_class)
        self.logit_scale = nn.Parameter(torch.zeros(()))

    def optimiser_options(self) -> dict[str, dict[str, Any]]:
        return {"head.weight": {"relative_rate": self.map_rate}}

    def scores(self, activation: Tensor) -> Tensor:
        features = grid_pool(activation, self.grid)
        if activation.dim() == 4:
            products = product_pool(activation - CENTRE, self.group, self.window, LENGTH)
            features = torch.cat([features, products], dim=1)
        scores = self.logit_scale.exp() * scores_of(features, self.head.weight) + self.head.bias
        return scores.unflatten(1, (self.classes, self.maps_per_class)).logsumexp(2)
