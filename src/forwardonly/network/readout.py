"""Readouts, which combine the scores of all blocks into the network's.

Shapes: scores (L, B, C): blocks, batch, classes.
"""

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from forwardonly.targets import OBJECTIVES
from forwardonly.targets import Kind as Targets

Kind = Literal["sum", "skip-first", "last", "validation", "training", "range"]


def loss_aware_weights(scores: Tensor, labels: Tensor, targets: Targets = "class") -> Tensor:
    """softmax over blocks of minus each block's mean cross-entropy on labelled images, (L,); arXiv 2606.09928.

    Of other `targets` than classes, of minus their own loss.
    """
    return weights_of(block_losses(scores, labels, targets))


def weights_of(losses: Tensor) -> Tensor:
    """softmax over blocks of minus each block's mean loss, (L,)."""
    return torch.softmax(-losses, dim=0)


def block_losses(scores: Tensor, labels: Tensor, targets: Targets) -> Tensor:
    """Each block's mean loss (L,) by its own scores, without label smoothing."""
    return torch.stack([OBJECTIVES[targets].loss(own.float(), labels, 0.0) for own in scores])


def best_range(scores: Tensor, labels: Tensor) -> tuple[int, int]:
    """(first, last + 1) of the contiguous blocks whose summed scores are right most often.

    Among equals the longest range is taken, then the earliest.
    """
    depth = len(scores)
    upto = torch.cat([torch.zeros_like(scores[:1]), scores.float().cumsum(0)])
    best, most = (0, depth), -1
    for length in range(depth, 0, -1):
        for first in range(depth - length + 1):
            right = int(((upto[first + length] - upto[first]).argmax(1) == labels).sum())
            if right > most:
                best, most = (first, first + length), right
    return best


class Readout(nn.Module):
    """A weighted sum over blocks: (L, B, C) -> (B, C), of tokens (L, B, T, C) -> (B, T, C).

    `weights` (L,) is saved with the model.

    `sum`, `skip-first` and `last` are fixed. Three are fitted to scores of labelled images, and are the plain sum until
    then: `validation` and `training` weigh blocks by their loss on images of that split, `range` sums the contiguous
    blocks that are right most often on the validation split.

    Raises:
        ValueError: an unknown kind.
    """

    weights: Tensor

    def __init__(self, kind: Kind, depth: int):
        super().__init__()
        if kind not in get_args(Kind):
            raise ValueError(f"Unknown readout {kind!r}: choose one of {', '.join(get_args(Kind))}.")
        self.kind = kind
        weights = torch.ones(depth)
        if depth > 1 and kind == "skip-first":
            weights[0] = 0.0
        if kind == "last":
            weights[:-1] = 0.0
        self.register_buffer("weights", weights)

    @property
    def fitted_on(self) -> Literal["validation", "training"] | None:
        """The split whose scores `fit` needs, if any."""
        if self.kind == "training":
            return "training"
        return "validation" if self.kind in ("validation", "range") else None

    def fit(self, scores: Tensor, labels: Tensor, targets: Targets = "class") -> None:
        """Fits the weights to scores (L, N, C) of images with labels (N,), or other `targets`."""
        if self.kind == "range":
            first, end = best_range(scores, labels)
            self.weights.zero_()
            self.weights[first:end] = 1.0
        elif self.fitted_on is not None:
            self.weights.copy_(loss_aware_weights(scores, labels, targets))

    def whole(self, scores: Mapping[int, Tensor]) -> Tensor:
        """Scores (L, B, ...) of all blocks, from those of the blocks that ran, by their indices.

        A block that did not run has no say: it gets what the others say together, so that it changes neither their
        prediction nor their mean. Where those that ran have no weight, the last of them speaks.

        Raises:
            ValueError: no block ran.
        """
        if not scores:
            raise ValueError("The model leaves out every block for these inputs, so that nothing scores them.")
        ran = sorted(scores)
        rows = torch.stack([scores[index] for index in ran])
        if len(ran) == len(self.weights):
            return rows
        weights = self.weights[ran]
        if not bool(weights.any()):
            weights[-1] = 1.0
        others = torch.tensordot(weights / weights.sum(), rows.float(), 1).to(rows.dtype)
        return torch.stack([scores.get(index, others) for index in range(len(self.weights))])

    def mean(self, joined: Tensor) -> Tensor:
        """The blocks' mean score, of their weighted sum."""
        return joined / self.weights.sum()

    def forward(self, scores: Tensor) -> Tensor:
        return torch.einsum("l,lbc->bc" if scores.dim() == 3 else "l,lbtc->btc", self.weights, scores.float())
