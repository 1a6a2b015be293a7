"""Muon: momentum made orthogonal before each step, for the weights of hidden layers.

Jordan et al. 2024, https://kellerjordan.github.io/posts/muon: the three coefficients below, momentum with Nesterov's
correction. What differs from `torch.optim.Muon`:

- it takes weights of any number of dimensions, not matrices alone: a convolution's filters are the rows of one;
- the learning rate is a share of the weight's own length, and each step leaves that length as it was, so that one rate
  suits all blocks and neither weight decay nor the size of the gradient matters (ours; behind a norm the length means
  nothing anyway);
- momentum is 0.6 by default, and 3 iterations in float32 make the direction orthogonal, not 0.95 and 5 in bfloat16.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the first, third and fifth power of a singular value
ITERATIONS = 3
TINY = 1e-7


class Muon(torch.optim.Optimizer):
    """For weights of two or more dimensions, of which the first is the outputs.

    Args:
        params: weights, or groups of them.
        lr: length of a step, as a share of the weight's, if the gradient points all ways alike; shorter otherwise.
        momentum: share of the last direction that is kept.
    """

    def __init__(self, params: Iterable[Any], lr: float = 0.1, momentum: float = 0.6):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def allocate(self) -> None:
        """Makes the state of every weight, which the first step does otherwise."""
        for group in self.param_groups:
            for weight in group["params"]:
                self._state(weight)

    def _state(self, weight: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[weight]
        if not state:
            state["direction"] = torch.zeros_like(weight)
            state["length"] = weight.norm()
        return state

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of every weight that has a gradient; `closure` is not used."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._step(weight, weight.grad, group["lr"], group["momentum"])

    def _step(self, weight: Tensor, gradient: Tensor, rate: float, momentum: float) -> None:
        state = self._state(weight)
        direction = state["direction"].mul_(momentum).add_(gradient)
        rows = torch.add(gradient, direction, alpha=momentum).movedim(
            1, -1
        )  # no copy of filters that lie channels last
        update = orthogonal(rows.flatten(1)).view(rows.shape).movedim(-1, 1)
        weight.addcmul_(update, state["length"] * (-rate / min(weight.flatten(1).shape) ** 0.5))
        weight.mul_(state["length"] / weight.norm().clamp_min(TINY))


def orthogonal(matrix: Tensor) -> Tensor:
    """Roughly the nearest matrix whose rows, or columns where they are fewer, are orthonormal: (O, I) -> (O, I).

    Singular values are pushed towards 1, the more so the larger they are: three iterations leave the smallest behind.
    Each multiplies by a polynomial of the Gram matrix, whose own next value needs that polynomial alone: so the long
    side is met twice in all, not twice an iteration. In bf16 the Gram matrix would round small singular values away.
    Its trace is the square of the matrix's length, which saves wide matrices two passes.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    rows = (matrix.T if tall else matrix).to(torch.float32)
    gram = rows @ rows.T
    square = gram.trace().clamp_min(TINY**2)
    gram = gram / square
    factor = product = _polynomial(gram)
    for _ in range(ITERATIONS - 1):
        gram = factor @ gram @ factor
        factor = _polynomial(gram)
        product = factor @ product
    rows = (product * square.rsqrt()) @ rows
    return (rows.T if tall else rows).to(matrix.dtype)


def _polynomial(gram: Tensor) -> Tensor:
    """What one iteration multiplies the rows of a Gram matrix (O, O) by."""
    first, third, fifth = COEFFICIENTS
    factor = torch.addmm(gram, gram, gram, beta=third, alpha=fifth)
    factor.diagonal().add_(first)
    return factor
