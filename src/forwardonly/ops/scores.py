"""A read-out's product with its weights: exact where scores are compared, quick where only a gradient flows."""

from typing import Any

import torch
from torch import Tensor


def scores_of(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """features @ weight.T + bias in the weight's precision, whatever autocast says: (B, D), (C, D) -> (B, C).

    Scores in bf16 would keep only 8 bits. Their gradient's two products are computed in the features' own precision, as
    those of every other layer are: in float32 they took a head of 2000 units 0.84 ms of two cores, in bf16 0.13.
    """
    with torch.autocast(features.device.type, enabled=False):
        product = _Scores.apply(features, weight)
        return product if bias is None else product + bias


class _Scores(torch.autograd.Function):
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
        wants_features, wants_weight = ctx.needs_input_grad
        return (
            gradient @ weight.to(features.dtype) if wants_features else None,
            (gradient.T @ features).to(weight.dtype) if wants_weight else None,
        )
