"""Muon: orthogonalised momentum for the weights of hidden layers.

Jordan et al. 2024, https://kellerjordan.github.io/posts/muon. Given, there and in `torch.optim.Muon`: Nesterov
momentum, orthogonalised by Newton-Schulz iterations with the coefficients below. What differs from `torch.optim.Muon`:

- Weights may have more than two dimensions: a convolution's filters are flattened to the rows of a matrix.
- The learning rate is relative (ours): a step's length is a share of the weight's norm, whatever the shape. torch takes
  an absolute step, scaled by a function of the shape (`adjust_lr_fn`).
- Every step restores the norm that the weight had at its first step (ours), so that one learning rate suits all blocks.
  There is no weight decay; torch has decoupled weight decay, 0.1 by default. Where a normalisation layer follows, the
  norm of a weight has no effect anyway.
- The default learning rate is 0.1, not 0.001, and the default momentum 0.6, not 0.95.
- There are 3 iterations in float32, computed on the Gram matrix, not 5 in bfloat16. Their number, their coefficients
  and Nesterov momentum are fixed; torch has arguments for them.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the first, third and fifth power of a singular value
ITERATIONS = 3
TINY = 1e-7


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum for weights of two or more dimensions, the first of which is the outputs.

    Unlike `torch.optim.Muon` it takes convolution filters, measures a step relative to the weight's norm, keeps that
    norm instead of decaying weights, and orthogonalises by 3 iterations in float32; see the module's docstring.

    Args:
        params: weights, or groups of them.
        lr: length of a step as a share of the weight's norm, if all singular values of the momentum are equal; shorter
            otherwise.
        momentum: factor by which the momentum buffer decays in each step.
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
        # no copy of filters that are stored channels last
        rows = torch.add(gradient, direction, alpha=momentum).movedim(1, -1)
        update = orthogonal(rows.flatten(1)).view(rows.shape).movedim(-1, 1)
        weight.addcmul_(update, state["length"] * (-rate / min(weight.flatten(1).shape) ** 0.5))
        weight.mul_(state["length"] / weight.norm().clamp_min(TINY))


def orthogonal(matrix: Tensor) -> Tensor:
    """An approximation of the nearest matrix with orthonormal rows, or columns where they are fewer: (O, I) -> (O, I).

    Singular values are pushed towards 1; after three iterations the smallest still lag behind. Each iteration
    multiplies by a polynomial of the Gram matrix, and the next Gram matrix follows from that polynomial alone, so the
    long side takes part in two products in all, not two per iteration. In bf16 the Gram matrix would round small
    singular values away. Its trace is the squared norm of the matrix, which saves wide matrices two passes.
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
    """The factor by which one iteration multiplies the rows of a matrix with this Gram matrix (O, O)."""
    first, third, fifth = COEFFICIENTS
    factor = torch.addmm(gram, gram, gram, beta=third, alpha=fifth)
    factor.diagonal().add_(first)
    return factor
