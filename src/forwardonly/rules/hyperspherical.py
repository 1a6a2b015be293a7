"""Hyperspherical Forward-Forward (HFF). Sarode, Moser, ..., Dengel 2026, arXiv 2605.00082.

Each block classifies on the unit sphere: normalised features are compared with learned unit prototypes. Other classes'
prototypes serve as negatives, so training and prediction take one pass. Given: unit features and prototypes, several
prototypes a class combined by log-sum-exp, a smooth margin loss, and an auxiliary convolution before the sphere for
feature maps. Reconstruction: the equations below, the strided 3x3 convolution and its pooling. Ours: the defaults,
tuned on a validation split, and how a class is added from a few examples (`new_prototype.py`).

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
from forwardonly.rules.new_prototype import fitted_prototype, fitting, new_prototype


def class_goodness(features_BD: Tensor, prototypes_CQD: Tensor, tau: float, added: int = 0) -> Tensor:
    """G_c = (1/tau) log mean_k exp(tau cos(u, p_ck)): (B, D), (C, Q, D) -> (B, C), between -1 and 1.

    The last `added` classes have prototypes of any length: instead of the cosine, the product with the unit features.
    """
    classes, per_class, size = prototypes_CQD.shape
    prototypes_PD = prototypes_CQD.reshape(-1, size)
    shrink_B, shrink_P = (torch.rsqrt(mean_square(vectors) + 1e-12) for vectors in (features_BD, prototypes_PD))
    if added:
        shrink_P = torch.cat([shrink_P[: -added * per_class], shrink_P.new_full((added * per_class,), size**0.5)])
    cosine_BP = scores_of(features_BD, prototypes_PD) * shrink_B[:, None] * (shrink_P / size)
    cosine_BCQ = cosine_BP.view(-1, classes, per_class)
    if per_class == 1:
        return cosine_BCQ.squeeze(2)
    return (torch.logsumexp(tau * cosine_BCQ, dim=2) - math.log(per_class)) / tau


def margin_loss(goodness_BC: Tensor, labels: Tensor, scale: float, margin: float) -> Tensor:
    """log(1 + sum_{c != y} exp(s (G_c - G_y + m))), averaged over the batch.

    It is the cross-entropy of s G, with the margin m subtracted from the right class's goodness.
    """
    handicap = margin * F.one_hot(labels, goodness_BC.shape[1])
    return F.cross_entropy(scale * (goodness_BC - handicap), labels)


@dataclass(kw_only=True, eq=False)
class Hyperspherical(OnePassRule):
    """Cosine to class prototypes, with a margin. Owns `prototypes` (C, Q, D) and, for feature maps, `auxiliary`."""

    scale: float = 16.0
    """Inverse temperature of the loss."""
    tau: float = 16.0
    """Inverse temperature of the log-sum-exp over the prototypes of a class."""
    margin: float = 0.1
    """Margin of the loss, a difference of cosines."""
    prototypes_per_class: int = 1
    """Prototypes of each class."""
    aux_channels: int = 128
    """Channels of the auxiliary convolution on feature maps; 0 leaves it out."""
    grid: int = 2
    """Windows a side of the average pooling of feature maps."""
    summarised: int = 0
    """Classes of which `fo.summarise` keeps statistics. Those behind them were added with them."""

    training_defaults = MappingProxyType({"learning_rate": 5e-3, "weight_decay": 0.1})
    normalises = True
    readouts = frozenset({"prototypes"})
    expert = frozenset({"summarised"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale <= 0 or self.tau <= 0 or self.prototypes_per_class < 1:
            raise ValueError("scale and tau must be positive, and prototypes_per_class at least 1.")
        if self.aux_channels < 0 or self.grid < 1:
            raise ValueError("aux_channels must be 0 or more, and grid at least 1.")
        if not 0 <= self.summarised <= self.classes or (self.summarised and self.prototypes_per_class > 1):
            raise ValueError("summarised is a number of classes with one prototype each: fo.summarise sets it.")

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
        if self.summarised:
            self.summarise(torch.zeros(size, size), torch.zeros(self.summarised, size))

    def features(self, activation: Tensor) -> Tensor:
        """What is compared with the prototypes, (B, D)."""
        return grid_pool(self.auxiliary(activation), self.grid)

    def scores(self, activation: Tensor) -> Tensor:
        return class_goodness(self.features(activation), self.prototypes, self.tau, self.added)

    @property
    def added(self) -> int:
        """How many of the last classes have prototypes of any length."""
        return self.classes - self.summarised if self.summarised else 0

    @property
    def has_statistics(self) -> bool:
        """Whether there are statistics of classes, and not only room for them, as in a network built from a config."""
        return bool(self.summarised) and bool(self.get_buffer("means").any())

    def loss(self, activation: Tensor, labels: Tensor) -> Tensor:
        return margin_loss(self.scores(activation), labels, self.scale, self.margin)

    def summarise(self, within: Tensor, means: Tensor) -> None:
        """Keeps statistics by which classes are added: of unit features, (D, D), and of the first C classes, (C, D)."""
        self.summarised = len(means)
        self.register_buffer("within", within.to(self.prototypes))
        self.register_buffer("means", means.to(self.prototypes))

    def new_prototypes(self, activation: Tensor) -> Tensor:
        """Prototypes (Q, D) of a new class from its examples' activation (N, ...); each is made of every Q-th one."""
        features, old = self.features(activation).float(), self.prototypes.detach()
        if self.summarised:
            old = old[: self.summarised, 0]
            fit = fitting(old, self.get_buffer("within"), self.get_buffer("means"))
            return fitted_prototype(features, old, fit)[None]
        count, old = self.prototypes_per_class, old.flatten(0, 1)
        parts = [features[min(index, len(features) - 1) :: count] for index in range(count)]
        return old.norm(dim=1).mean() * torch.stack([new_prototype(part, old) for part in parts])

    def add_class(self, prototypes: Tensor) -> None:
        """Adds a class with these prototypes (Q, D) behind the others, which keep theirs."""
        grown = torch.cat([self.prototypes.detach(), prototypes[None].to(self.prototypes)])
        self.prototypes = nn.Parameter(grown, requires_grad=self.prototypes.requires_grad)
        self.classes += 1

    def pass_on(self, activation: Tensor) -> Tensor:
        return unit_rms(activation)
