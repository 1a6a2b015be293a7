"""The figures of a network by the kind of its targets, counted batch by batch.

| kind | main figure | besides |
|---|---|---|
| class | accuracy | confusion |
| labels | mean average precision | exact match: the share of examples all of whose labels are right |
| number | R2, the mean over the numbers | mean squared error, in the targets' own units |
| token | perplexity | cross-entropy in nats, accuracy of the next token |

Shapes: L blocks, B batch, C outputs, T positions; scores are (L, B, C), of the network (B, C).
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from forwardonly.targets import IGNORED, Kind


class Figures:
    """The figures of one kind of target."""

    @property
    def figures(self) -> dict[str, Any]:
        """The figures by name, as the history of a run has them."""
        return dict(vars(self))


@dataclass(frozen=True)
class Evaluation(Figures):
    """Accuracies are fractions of 1; `confusion` (C, C) counts true classes in rows, predicted ones in columns."""

    accuracy: float
    block_accuracy: list[float]
    confusion: Tensor

    @property
    def figures(self) -> dict[str, Any]:
        """The figures by name, as the history of a run has them."""
        return {"accuracy": self.accuracy, "block_accuracy": self.block_accuracy}


@dataclass(frozen=True)
class LabelsEvaluation(Figures):
    """Of several labels at once. Labels that no example has, or all have, are not in the mean average precision."""

    mean_average_precision: float
    block_mean_average_precision: list[float]
    exact_match: float


@dataclass(frozen=True)
class NumbersEvaluation(Figures):
    """R2 is 1 - squared error / variance, at most 1; it is nan where a number never differs."""

    r2: float
    block_r2: list[float]
    mse: float


@dataclass(frozen=True)
class TokensEvaluation(Figures):
    """Perplexity is exp(cross-entropy); positions that are not to be predicted do not count."""

    perplexity: float
    block_perplexity: list[float]
    cross_entropy: float
    accuracy: float


class Tally:
    """Counts what the figures of a kind need; `add` takes a batch, and `result` gives the figures."""

    def __init__(self, depth: int, outputs: int, device: torch.device):
        self.outputs, self.count = outputs, 0

    def add(self, scores: Tensor, joined: Tensor, targets: Tensor) -> None:
        """Counts a batch: the blocks' scores (L, B, ...), the network's (B, ...) and the targets (B, ...)."""
        raise NotImplementedError

    def result(self) -> Figures:
        """The figures of all batches."""
        raise NotImplementedError


class Classes(Tally):
    """Right predictions of each block, and the confusion matrix."""

    def __init__(self, depth: int, outputs: int, device: torch.device):
        super().__init__(depth, outputs, device)
        self.right = torch.zeros(depth, dtype=torch.int64, device=device)
        self.confusion = torch.zeros(outputs**2, dtype=torch.int64, device=device)

    def add(self, scores: Tensor, joined: Tensor, targets: Tensor) -> None:
        self.count += len(targets)
        self.right += (scores.argmax(2) == targets).sum(1)
        places = targets * self.outputs + joined.argmax(1)
        self.confusion += torch.bincount(places, minlength=len(self.confusion))

    def result(self) -> Evaluation:
        table = self.confusion.view(self.outputs, self.outputs).cpu()
        return Evaluation(
            accuracy=float(table.diagonal().sum()) / self.count,
            block_accuracy=[count / self.count for count in self.right.tolist()],
            confusion=table,
        )


class Labels(Tally):
    """All scores, which average precision sorts."""

    def __init__(self, depth: int, outputs: int, device: torch.device):
        super().__init__(depth, outputs, device)
        self.rows: list[Tensor] = []
        self.targets: list[Tensor] = []

    def add(self, scores: Tensor, joined: Tensor, targets: Tensor) -> None:
        self.rows.append(torch.cat([joined[None], scores]).float().cpu())
        self.targets.append((targets > 0.5).cpu())

    def result(self) -> LabelsEvaluation:
        scores, present = torch.cat(self.rows, dim=1), torch.cat(self.targets)
        whole, *blocks = (float(average_precision(own, present).nanmean()) for own in scores)
        exact = float(((scores[0] > 0) == present).all(1).float().mean())
        return LabelsEvaluation(whole, blocks, exact)


class Numbers(Tally):
    """Sums of squares, in float64."""

    def __init__(self, depth: int, outputs: int, device: torch.device):
        super().__init__(depth, outputs, device)
        self.errors = torch.zeros(1 + depth, outputs, dtype=torch.float64)
        self.mean = torch.zeros(outputs, dtype=torch.float64)
        self.spread = torch.zeros(outputs, dtype=torch.float64)

    def add(self, scores: Tensor, joined: Tensor, targets: Tensor) -> None:
        wanted = targets.double().cpu()
        said = torch.cat([joined[None], scores]).double().cpu()
        self.errors += (said - wanted).square().sum(1)
        new = self.count + len(wanted)  # Chan's update: no large sums are subtracted from each other
        mean = wanted.mean(0)
        gap = mean - self.mean
        self.spread += (wanted - mean).square().sum(0) + gap.square() * self.count * len(wanted) / new
        self.mean += gap * len(wanted) / new
        self.count = new

    def result(self) -> NumbersEvaluation:
        shares = torch.where(self.spread > 0, 1 - self.errors / self.spread, torch.nan)
        whole, *blocks = shares.nanmean(1).tolist()
        return NumbersEvaluation(whole, blocks, float(self.errors[0].mean()) / self.count)


class Tokens(Tally):
    """Sums of cross-entropies over the positions that are to be predicted."""

    def __init__(self, depth: int, outputs: int, device: torch.device):
        super().__init__(depth, outputs, device)
        self.losses = torch.zeros(1 + depth, dtype=torch.float64)
        self.right = 0

    def add(self, scores: Tensor, joined: Tensor, targets: Tensor) -> None:
        kept = targets != IGNORED
        wanted = targets[kept]
        self.count += len(wanted)
        for row, own in enumerate([joined, *scores]):
            self.losses[row] += float(F.cross_entropy(own[kept].float(), wanted, reduction="sum"))
        self.right += int((joined[kept].argmax(-1) == wanted).sum())

    def result(self) -> TokensEvaluation:
        if self.count == 0:
            raise ValueError("There is no token to predict: every target is left out.")
        means = self.losses / self.count
        whole, *blocks = means.exp().tolist()
        return TokensEvaluation(whole, blocks, float(means[0]), self.right / self.count)


TALLIES: dict[Kind, type[Tally]] = {"class": Classes, "labels": Labels, "number": Numbers, "token": Tokens}


def average_precision(scores: Tensor, present: Tensor) -> Tensor:
    """Average precision of each label, (C,), from scores (N, C) and labels (N, C) bool; nan where none is there.

    sum over thresholds of (recall gained) * precision, where equal scores are one threshold.
    """
    found = []
    for own, label in zip(scores.T, present.T, strict=True):
        order = own.argsort(descending=True)
        own, hits = own[order], label[order].double().cumsum(0)
        last = torch.ones(len(own), dtype=torch.bool)
        last[:-1] = own[1:] != own[:-1]  # the last of equal scores
        hits, ranks = hits[last], (torch.arange(len(own)) + 1)[last]
        gained = torch.diff(hits, prepend=hits.new_zeros(1))
        found.append((gained * hits / ranks).sum() / hits[-1] if hits[-1] > 0 else torch.tensor(torch.nan))
    return torch.stack([each.double() for each in found])
