"""Norms without parameters, and their building blocks.

Shapes: B batch, K channels, H x W space; flat activations are (B, D).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from forwardonly.ops.pooling import space_mean


def mean_square(activation: Tensor) -> Tensor:
    """Mean of the squares of each example's features: (B, ...) -> (B,), in float32 at least."""
    if activation.requires_grad and torch.is_grad_enabled():
        return _MeanSquare.apply(activation)
    return _MeanSquare.forward(activation)


class _MeanSquare(torch.autograd.Function):
    """One pass over the activation, no float32 copy of it, and the gradient 2 x / D as one product."""

    generate_vmap_rule = True  # torch.func.vmap takes networks of equal shape as one

    @staticmethod
    def forward(activation: Tensor) -> Tensor:
        dtype = torch.promote_types(activation.dtype, torch.float32)
        norm = torch.linalg.vector_norm(activation, dim=tuple(range(1, activation.dim())), dtype=dtype)
        return norm.square() / math.prod(activation.shape[1:])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (activation,) = ctx.saved_tensors
        scale = gradients[0] * (2 / math.prod(activation.shape[1:]))
        return activation * scale.to(activation.dtype).view(-1, *[1] * (activation.dim() - 1))


def instance_norm(activation: Tensor) -> Tensor:
    """Each channel of each example with zero mean and unit deviation over space; no parameters.

    Without space to average over, on (B, D) or 1 x 1 maps, the same over all features of an example.
    """
    if activation.dim() != 4 or activation.shape[2] * activation.shape[3] == 1:
        return F.layer_norm(activation, activation.shape[1:])
    return _standardised(activation, lambda values: values)


def _standardised(activation: Tensor, share: Callable[[Tensor], Tensor], epsilon: float = 1e-5) -> Tensor:
    """Maps with zero mean and unit deviation; `share` turns each channel's mean, (B, K), into that of its group."""
    if activation.requires_grad and torch.is_grad_enabled():
        return _Standardised.apply(activation, share, epsilon)[0]
    return _Standardised.forward(activation, share, epsilon)[0]


class _Standardised(torch.autograd.Function):
    """Statistics in memory order, and a gradient that saves the result and nothing else of its size.

    PyTorch's own norms reorder channels-last maps by channel first, and take up to 80 times as long on narrow ones.
    """

    @staticmethod
    def forward(activation: Tensor, share: Callable[[Tensor], Tensor], epsilon: float) -> tuple[Tensor, Tensor]:
        centred = activation - _wide(share(space_mean(activation)), activation)
        scale = (share(space_mean(centred.square())) + epsilon).rsqrt()
        return centred * _wide(scale, activation), scale

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.share = inputs[1]
        ctx.save_for_backward(*output)
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        standard, scale = ctx.saved_tensors
        gradient, share = gradients[0], ctx.share  # `share` is a mean within groups, so it is its own adjoint
        if standard.is_contiguous(memory_format=torch.channels_last):
            gradient = gradient.contiguous(memory_format=torch.channels_last)
        along = share(space_mean(gradient * standard))
        rest = gradient - _wide(share(space_mean(gradient)), gradient) - standard * _wide(along, standard)
        return rest * _wide(scale, rest), None, None


def _wide(values: Tensor, like: Tensor) -> Tensor:
    """Values of channels (B, K) as maps (B, K, 1, 1) of the other tensor's type."""
    return values.to(like.dtype)[:, :, None, None]


def group_norm(activation: Tensor, groups: Tensor, count: int, epsilon: float = 1e-5) -> Tensor:
    """Each group of channels of each example with zero mean and unit deviation; no parameters.

    Args:
        activation: (B, K, H, W) or (B, D).
        groups: (K,) or (D,), the group of each channel; the groups may differ in size.
        count: how many groups there are.
    """
    member = F.one_hot(groups, count).to(torch.promote_types(activation.dtype, torch.float32))
    member = member / member.sum(0)

    def share(values: Tensor) -> Tensor:
        return (values @ member)[:, groups]

    if activation.dim() == 4:
        return _standardised(activation, share, epsilon)
    centred = activation - share(activation.to(member.dtype))
    return (centred * (share(centred.square()) + epsilon).rsqrt()).to(activation.dtype)
