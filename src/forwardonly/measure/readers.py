"""Readers of features: ridge regression in closed form, logistic regression, nearest neighbours.

Each has a strength, of which a probe chooses the best on images that it holds out.

Shapes: N examples, M others, D features, C classes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Reader = Callable[[Tensor], Tensor]
"""Features (M, D) -> class scores (M, C)."""

ITERATIONS = 100  # of L-BFGS, enough for standardised features
AT_A_TIME = 1000  # rows of similarities


def ridge(features: Tensor, labels: Tensor, classes: int, strengths: Sequence[float]) -> list[Reader]:
    """Least squares of centred one-hot labels, by the penalty strength N |W|^2; features are standardised.

    The normal equations have the size of the smaller of N and D, and are solved in float64 for each strength.
    """
    scale = _Scale(features)
    x = scale(features)
    y = F.one_hot(labels, classes).to(torch.float64)
    mean = y.mean(0)
    y = y - mean
    dual = len(x) < x.shape[1]
    gram = (x @ x.T if dual else x.T @ x).to(torch.float64)
    right = y if dual else x.T.to(torch.float64) @ y
    readers = []
    for strength in strengths:
        shifted = gram.clone()
        shifted.diagonal().add_(strength * len(x))
        solved = torch.cholesky_solve(right, torch.linalg.cholesky(shifted))
        weights = (x.T.to(torch.float64) @ solved if dual else solved).to(x.dtype)
        readers.append(_linear(scale, weights, mean.to(x.dtype)))
    return readers


def logistic(features: Tensor, labels: Tensor, classes: int, strengths: Sequence[float]) -> list[Reader]:
    """Softmax regression with the penalty strength |W|^2 / 2, by L-BFGS; features are standardised."""
    scale = _Scale(features)
    x = scale(features)
    weights = x.new_zeros(x.shape[1], classes, requires_grad=True)
    bias = x.new_zeros(classes, requires_grad=True)
    readers = []
    for strength in strengths:  # each begins where the last one ended
        optimiser = torch.optim.LBFGS([weights, bias], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

        def loss(strength: float = strength, optimiser: torch.optim.Optimizer = optimiser) -> float:
            optimiser.zero_grad()
            value = F.cross_entropy(x @ weights + bias, labels) + strength / 2 * weights.square().sum()
            value.backward()
            return value.item()

        with torch.enable_grad():
            optimiser.step(loss)
        readers.append(_linear(scale, weights.detach().clone(), bias.detach().clone()))
    return readers


def neighbours(features: Tensor, labels: Tensor, classes: int, strengths: Sequence[float]) -> list[Reader]:
    """The votes of the `strength` nearest by cosine, weighed by exp(cosine / 0.07) (Wu et al. 2018, 1805.01978)."""
    unit, votes = F.normalize(features, dim=1), F.one_hot(labels, classes).to(features.dtype)

    def reader(count: int) -> Reader:
        def read(other: Tensor) -> Tensor:
            rows = []
            for part in F.normalize(other, dim=1).split(AT_A_TIME):
                near = (part @ unit.T).topk(min(count, len(unit)), dim=1)
                weights = ((near.values - 1) / 0.07).exp()
                rows.append((weights.unsqueeze(2) * votes[near.indices]).sum(1))
            return torch.cat(rows)

        return read

    return [reader(int(strength)) for strength in strengths]


@dataclass(frozen=True)
class Kind:
    """A kind of reader, and the strengths that are tried."""

    fit: Callable[[Tensor, Tensor, int, Sequence[float]], list[Reader]]
    strengths: tuple[float, ...]


KINDS = {
    "ridge": Kind(ridge, (1e-4, 1e-3, 1e-2, 1e-1, 1.0)),
    "logistic": Kind(logistic, (1e-2, 1e-3, 1e-4)),
    "knn": Kind(neighbours, (1, 5, 10, 20, 50)),
}


class _Scale:
    """Standardises features by those that it is made of; a feature that never changes becomes zero."""

    def __init__(self, features: Tensor):
        spread, self.mean = torch.std_mean(features, dim=0, correction=0)
        self.factor = torch.where(spread > 1e-6, spread, torch.inf).reciprocal()

    def __call__(self, features: Tensor) -> Tensor:
        return (features - self.mean) * self.factor


def _linear(scale: _Scale, weights: Tensor, bias: Tensor) -> Reader:
    return lambda features: scale(features) @ weights + bias


def middle(strengths: Sequence[float]) -> float:
    """The strength to take where nothing can be held out to choose one."""
    return strengths[math.ceil(len(strengths) / 2) - 1]
