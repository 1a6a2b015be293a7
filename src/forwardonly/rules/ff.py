"""Forward-Forward. Hinton 2022, "The Forward-Forward Algorithm: Some Preliminary Investigations", arXiv 2212.13345.

Each block learns a high goodness for images with their right label and a low one for images with a wrong label. Given:
the goodness, the threshold loss, length normalisation, label embedding, hard negatives, both ways of predicting. The
margin loss is that of SymBa (arXiv 2303.08418), fixed negatives are those of NetworkFF (arXiv 2512.17531). Ours:
`sharpness`, normalised images and the label's value, found on a validation split (log/). The plainest reading of the
paper is `sharpness=1, negatives="uniform", normalise_input=False, label_value=None`.

Shapes: B batch, D features.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from forwardonly.ops.norms import mean_square
from forwardonly.rules.base import PeerGoodness
from forwardonly.rules.contrastive import ContrastiveRule


def goodness(activation: Tensor, reduction: Literal["mean", "sum"] = "mean") -> Tensor:
    """Mean or sum of squared activations: (B, ...) -> (B,), in float32."""
    mean = mean_square(activation)
    return mean if reduction == "mean" else mean * activation[0].numel()


def threshold_loss(positive: Tensor, negative: Tensor, threshold: float, sharpness: float = 1.0) -> Tensor:
    """softplus(theta - g_pos) + softplus(g_neg - theta), averaged over the batch.

    With a sharpness k, which is ours, it is softplus(k z) / k: the same loss at a lower temperature.
    """
    losses = F.softplus(threshold - positive, beta=sharpness) + F.softplus(negative - threshold, beta=sharpness)
    return losses.mean()


def margin_loss(positive: Tensor, negative: Tensor, beta: float) -> Tensor:
    """softplus(-beta (g_pos - g_neg)), averaged over the batch: the loss of SymBa, without a threshold."""
    return F.softplus(-beta * (positive - negative)).mean()


@dataclass(kw_only=True, eq=False)
class ForwardForward(ContrastiveRule):
    """Forward-Forward with labels embedded in the images. It has no parameters of its own."""

    objective: Literal["threshold", "margin"] = "threshold"
    """Loss: each stream against a threshold (Hinton), or the margin between the two streams (SymBa)."""
    reduction: Literal["mean", "sum"] = "mean"
    """Goodness: the mean or the sum of squared activations."""
    threshold: float = 2.0
    """Goodness that separates the positive from the negative stream (threshold objective)."""
    sharpness: float = 10.0
    """Inverse temperature of the threshold objective; 1 is Hinton's."""
    beta: float = 4.0
    """Inverse temperature of the margin objective."""
    negatives: Literal["uniform", "hard", "fixed"] = "hard"
    """Wrong labels: drawn with equal chance in each epoch (uniform) or once for the whole run (fixed), or drawn from
    the predictions of the label classifier (hard)."""
    predict: Literal["goodness", "softmax"] = "goodness"
    """Prediction: by goodness, one pass for each class, or in one pass by the softmax of the label classifier."""
    normalise_input: bool = True
    """Normalise each image before the label code is written into it."""
    label_value: float | None = 8.0
    """Value of the label code's "1" in the input; none takes the largest value that a pixel can have."""

    expert = frozenset({"reduction", "beta", "size", "label_placement", "normalise_input"})
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
        """Whether the network also trains a label classifier, for hard negatives or for prediction in one pass."""
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
