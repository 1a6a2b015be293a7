"""The matrix product of a read-out: exact scores, and a fast gradient."""

from typing import Any

import torch
from torch import Tensor


def scores_of(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """features @ weight.T + bias in the weight's precision, also under autocast: (B, D), (C, D) -> (B, C).

    Scores in bf16 would keep only 8 bits. The two products of their gradient are computed in the features' precision,
    as in every other layer: for a head of 2000 units on two cores they took 0.84 ms in float32 and 0.13 ms in bf16.
    """
    with torch.autocast(features.device.type, enabled=False):
        product = _Scores.apply(features, weight)
        return product if bias is None else product + bias


class _Scores(torch.autograd.Function):
    generate_vmap_rule = True  # torch.func.vmap takes networks of equal shape as one

    @staticmethod
    def forward(features: Tensor, weight: Tensor) -> Tensor:
        return features.to(weight.dtype) @ weight.T

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        features, weight = ctx.saved_tensors
        gradient = gradients[0].to(features.dtype)
        needs_features, needs_weight = ctx.needs_input_grad
        return (
            gradient @ weight.to(features.dtype) if needs_features else None,
            (gradient.T @ features).to(weight.dtype) if needs_weight else None,
        )
