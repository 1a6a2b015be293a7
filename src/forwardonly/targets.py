"""The kinds of target that a network learns, with the loss and the prediction of each, in one place.

| kind | targets of a batch | loss on the scores | prediction |
|---|---|---|---|
| class | (B,) int64 | cross-entropy | index of the highest score, (B,) |
| labels | (B, C) float32, 0 or 1 | binary cross-entropy of sigmoids | scores above 0, (B, C) bool |
| number | (B, C) float32 | squared error | the scores, (B, C) |
| token | (B, T) int64 | cross-entropy at each position, an example of its own | index of the highest score, (B, T) |

Shapes: B batch, C outputs (classes, labels, numbers, or words of a vocabulary), T positions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Kind = Literal["class", "labels", "number", "token"]
KINDS: tuple[Kind, ...] = get_args(Kind)
IGNORED = -100  # a token that is not to be predicted, such as padding
NO_LABEL = -1  # of an example that has none


def examples_in(targets: Tensor, kind: Kind) -> int | Tensor:
    """The examples over which the loss of a batch is a mean: of tokens, the positions that are to be predicted."""
    return (targets != IGNORED).sum() if kind == "token" else len(targets)


@dataclass(frozen=True)
class Objective:
    """What a rule needs to know of a kind of target; `OBJECTIVES` has one of each."""

    words: str
    """The targets in a sentence."""
    least: int
    """Outputs that there must be."""
    loss: Callable[[Tensor, Tensor, float], Tensor]
    """(scores, targets, label smoothing) -> a scalar in float32; the mean over the batch."""
    predict: Callable[[Tensor], Tensor]
    """Scores of the network -> what it says."""
    probabilities: Callable[[Tensor], Tensor] | None
    """Scores at the scale of the loss -> probabilities; None where there are none."""


def _classes(scores: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    return F.cross_entropy(scores, labels, label_smoothing=smoothing)


def _labels(scores: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(scores, labels * (1 - smoothing) + smoothing / 2)


def _numbers(scores: Tensor, numbers: Tensor, smoothing: float) -> Tensor:
    return F.mse_loss(scores, numbers)


def _softmax(scores: Tensor) -> Tensor:
    return torch.softmax(scores, dim=-1)


def _highest(scores: Tensor) -> Tensor:
    return scores.argmax(-1)


OBJECTIVES: dict[Kind, Objective] = {
    "class": Objective("classes", 2, _classes, _highest, _softmax),
    "labels": Objective("several labels at once", 1, _labels, lambda scores: scores > 0, torch.sigmoid),
    "number": Objective("numbers", 1, _numbers, lambda scores: scores, None),
    "token": Objective("tokens", 2, _classes, _highest, _softmax),
}
