"""Hyperspherical Forward-Forward (HFF). Sarode, Moser, ..., Dengel 2026, arXiv 2605.00082.

Each block solves the C-class problem on the unit sphere: its features are normalised and compared with learned unit
prototypes, and the prototypes of the other classes are the negatives, so one pass serves learning and predicting. Given
by the paper: unit features and prototypes, several prototypes a class joined by log-sum-exp, a smooth margin loss, and
for feature maps an auxiliary convolution before the sphere. The exact form below, a strided 3x3 convolution pooled to a
grid among it, and the defaults are our reconstruction, tuned on a validation split.

Shapes: B batch, C classes, D features, Q prototypes a class, P = C Q prototypes in all.
"""

import math
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from forwardonly.ops.norms import mean_square
from forwardonly.ops.pooling import grid_pool, grid_size
from forwardonly.ops.scores import scores_of
from forwardonly.rules.base import BlockPosition, OnePassRule, unit_rms


def class_goodness(features_BD: Tensor, prototypes_CQD: Tensor, tau: float) -> Tensor:
    """G_c = (1/tau) log mean_k exp(tau cos(u, p_ck)): (B, D), (C, Q, D) -> (B, C), between -1 and 1."""
    classes, per_class, size = prototypes_CQD.shape
    prototypes_PD = prototypes_CQD.reshape(-1, size)
    shrink_B, shrink_P = (torch.rsqrt(mean_square(vectors) + 1e-12) for vectors in (features_BD, prototypes_PD))
    cosine_BP = scores_of(features_BD, prototypes_PD) * shrink_B[:, None] * (shrink_P / size)
    cosine_BCQ = cosine_BP.view(-1, classes, per_class)
    if per_class == 1:
        return cosine_BCQ.squeeze(2)
    return (torch.logsumexp(tau * cosine_BCQ, dim=2) - math.log(per_class)) / tau


def margin_loss(goodness_BC: Tensor, labels: Tensor, scale: float, margin: float) -> Tensor:
    """log(1 + sum_{c != y} exp(s (G_c - G_y + m))), averaged over the batch.

    It is the cross-entropy of s G after the right class has given up the margin m.
    """
    handicap = margin * F.one_hot(labels, goodness_BC.shape[1])
    return F.cross_entropy(scale * (goodness_BC - handicap), labels)


@dataclass(kw_only=True, eq=False)
class Hyperspherical(OnePassRule):
    """Cosine to learned class prototypes, with a margin. Owns `prototypes` (C, Q, D), for feature maps `auxiliary`."""

    scale: float = 16.0
    """Inverse temperature s of the loss."""
    tau: float = 16.0
    """Sharpness of the log-sum-exp that joins the prototypes of a class."""
    margin: float = 0.1
    """Margin m, as a difference of cosines, by which the right class must win."""
    prototypes_per_class: int = 1
    """Prototypes Q that each class has."""
    aux_channels: int = 128
    """Channels of the auxiliary convolution between feature maps and the sphere; 0 pools the maps as they are."""
    grid: int = 2
    """Feature maps are averaged to a grid of this many windows a side before the sphere."""

    training_defaults = MappingProxyType({"weight_decay": 0.1})
    normalises = True
    readouts = frozenset({"prototypes"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale <= 0 or self.tau <= 0 or self.prototypes_per_class < 1:
            raise ValueError("scale and tau must be positive, and prototypes_per_class at least 1.")
        if self.aux_channels < 0 or self.grid < 1:
            raise ValueError("aux_channels must be 0 or more, and grid at least 1.")

    @property
    def score_scale(self) -> float:
        return self.scale

    def setup(self, shape: tuple[int, ...], position: BlockPosition) -> None:
        self.auxiliary: nn.Module = nn.Identity()
        if len(shape) == 3 and self.aux_channels:
            stride = 2 if min(shape[1:]) >= 2 * self.grid else 1  # a quarter of the work
            convolution = nn.Conv2d(shape[0], self.aux_channels, 3, stride, padding=1, bias=False)
            self.auxiliary = nn.Sequential(convolution, nn.ReLU())
            shape = (self.aux_channels, *(-(-side // stride) for side in shape[1:]))
        size = grid_size(shape, self.grid)
        self.prototypes = nn.Parameter(F.normalize(torch.randn(self.classes, self.prototypes_per_class, size), dim=2))

    def scores(self, activation: Tensor) -> Tensor:
        features = grid_pool(self.auxiliary(activation), self.grid)
        return class_goodness(features, self.prototypes, self.tau)

    def loss(self, activation: Tensor, labels: Tensor) -> Tensor:
        return margin_loss(self.scores(activation), labels, self.scale, self.margin)

    def pass_on(self, activation: Tensor) -> Tensor:
        return unit_rms(activation)
