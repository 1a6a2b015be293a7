"""Forward-Forward. Hinton 2022, "The Forward-Forward Algorithm: Some Preliminary Investigations", arXiv 2212.13345.

Each block makes its goodness high on real data with the right label and low with a wrong one. Given by the paper: the
goodness, the threshold loss, length normalisation, label embedding, hard negatives, both ways of predicting. The margin
loss is SymBa's (arXiv 2303.08418). Ours: a sharpness other than 1 and the strength of the label, found on a validation
split (log/2026-11-20-ff-defaults.md); `sharpness=1, negatives="uniform", normalise_input=False, label_value=None` is
the plainest reading of the paper.

Shapes: B batch, D features.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from forwardonly.ops.norms import mean_square
from forwardonly.rules.base import ContrastiveRule, PeerGoodness


def goodness(activation: Tensor, reduction: Literal["mean", "sum"] = "mean") -> Tensor:
    """Mean or sum of squared activations: (B, ...) -> (B,), in float32."""
    mean = mean_square(activation)
    return mean if reduction == "mean" else mean * activation[0].numel()


def threshold_loss(positive: Tensor, negative: Tensor, threshold: float, sharpness: float = 1.0) -> Tensor:
    """softplus(theta - g_pos) + softplus(g_neg - theta), averaged over the batch.

    A sharpness k other than 1 is ours: softplus(k z) / k, the same loss at a lower temperature.
    """
    losses = F.softplus(threshold - positive, beta=sharpness) + F.softplus(negative - threshold, beta=sharpness)
    return losses.mean()


def margin_loss(positive: Tensor, negative: Tensor, beta: float) -> Tensor:
    """SymBa: softplus(-beta (g_pos - g_neg)), averaged over the batch; no threshold."""
    return F.softplus(-beta * (positive - negative)).mean()


@dataclass(kw_only=True, eq=False)
class ForwardForward(ContrastiveRule):
    """Forward-Forward with labels in the input: one positive and one negative stream.

    `setup` creates no parameters: the weights are the body's alone.
    """

    objective: Literal["threshold", "margin"] = "threshold"
    """Compare each stream with a threshold (Hinton), or the two streams with each other (SymBa)."""
    reduction: Literal["mean", "sum"] = "mean"
    """Goodness is the mean or the sum of squared activations."""
    threshold: float = 2.0
    """Goodness that separates positive from negative, in units of goodness (threshold objective)."""
    sharpness: float = 10.0
    """Inverse temperature of the threshold objective; 1 is Hinton's."""
    beta: float = 4.0
    """Steepness of the margin objective."""
    negatives: Literal["uniform", "hard"] = "hard"
    """Wrong labels: any with equal chance, or drawn by the network's own one-pass softmax."""
    predict: Literal["goodness", "softmax"] = "goodness"
    """Predict by trying every label, or in one pass by a softmax on the activations under a neutral label."""
    normalise_input: bool = True
    """Divide each image by its size before its label is written into it."""
    label_value: float | None = 8.0
    """Value of the label code's "1" in the input; none takes the largest value that a pixel can have."""

    training_defaults = MappingProxyType({"batch_size": 100})
    standardise = False
    normalises = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("threshold", "sharpness", "beta"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}.")

    @property
    def needs_label_classifier(self) -> bool:
        """Whether the network must also learn a softmax on its activations."""
        return self.negatives == "hard" or self.predict == "softmax"

    @property
    def score_scale(self) -> float:
        if self.predict == "softmax":
            return 1.0
        return self.sharpness if self.objective == "threshold" else self.beta

    def goodness(self, activation: Tensor) -> Tensor:
        return goodness(activation, self.reduction)

    def loss(self, positive: Tensor, negative: Tensor, peers: PeerGoodness | None = None) -> Tensor:
        if self.objective == "threshold":
            return threshold_loss(positive, negative, self.threshold, self.sharpness)
        return margin_loss(positive, negative, self.beta)
