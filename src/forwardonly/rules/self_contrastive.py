"""Self-contrastive Forward-Forward. Chen et al. 2025, Nature Communications 16:5978, arXiv 2409.11593.

Positive is an image beside itself, [x, x], negative one beside another of the batch, [x, x']. Given: both halves meet
the same weights, so that the first block sees their sum; two augmented views instead of one image twice; the threshold
loss on the mean of squared activations, a threshold for each stream, a penalty on the positive goodness; activations
are normalised before the next block; a linear classifier reads the network (`fo.probe`). Ours: half the sum, so that
[x, x] is the image itself, which is the paper's loss with a quarter of the goodness; images are normalised to a mean
of zero and a unit mean square each; thresholds that are the same for both streams and all blocks, and a sharpness,
chosen on held-out images (log/).

Shapes: B batch, D features; images are (B, K, H, W).
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from forwardonly.rules.base import PeerGoodness
from forwardonly.rules.ff import goodness
from forwardonly.rules.unlabelled import UnlabelledRule, others


def self_contrastive_loss(
    positive: Tensor, negative: Tensor, threshold: float, negative_threshold: float, sharpness: float, penalty: float
) -> Tensor:
    """softplus(t - g_pos) + softplus(g_neg - t_neg) + penalty g_pos, averaged over the batch.

    With a sharpness k, which is ours, softplus(z) is softplus(k z) / k.
    """
    up = F.softplus(threshold - positive, beta=sharpness)
    down = F.softplus(negative - negative_threshold, beta=sharpness)
    return (up + down + penalty * positive).mean()


@dataclass(kw_only=True, eq=False)
class SelfContrastive(UnlabelledRule):
    """Forward-Forward on images beside themselves against images beside others. It has no parameters of its own."""

    positives: Literal["same", "views"] = "same"
    """Positive stream: an image beside itself, or two augmented views of it (`--crop`, `--flip`, `--cutout`)."""
    threshold: float = 4.0
    """Goodness that the positive stream is to exceed."""
    negative_threshold: float = 4.0
    """Goodness that the negative stream is to stay below."""
    sharpness: float = 4.0
    """Inverse temperature of the loss; 1 is the paper's."""
    penalty: float = 0.0
    """Weight of the positive goodness in the loss."""

    expert = frozenset({"size", "penalty"})
    training_defaults = MappingProxyType({"batch_size": 100})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("threshold", "negative_threshold", "sharpness"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}.")
        if self.penalty < 0:
            raise ValueError(f"penalty must be 0 or more, not {self.penalty}.")

    @property
    def views(self) -> int:
        return 2 if self.positives == "views" else 1

    def alone(self, images: Tensor) -> Tensor:
        centred = images - images.mean(tuple(range(1, images.dim())), keepdim=True)
        return self.normalise(centred)

    def pair(self, first: Tensor, second: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        first, second = self.alone(first), self.alone(second)
        return (first + second) / 2, (first + second[others(len(first), generator)]) / 2

    def goodness(self, activation: Tensor) -> Tensor:
        return goodness(activation)

    def loss(self, positive: Tensor, negative: Tensor, peers: PeerGoodness | None = None) -> Tensor:
        return self_contrastive_loss(
            positive, negative, self.threshold, self.negative_threshold, self.sharpness, self.penalty
        )
