"""What rules and bodies do to feature maps: pool them to a grid, normalise them. Plain functions without parameters.

Shapes: B batch, K channels, H x W space, g grid; flat activations (B, D) go through unpooled.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def grid_pool(activation: Tensor, grid: int) -> Tensor:
    """Means over a grid x grid of windows: (B, K, H, W) -> (B, K g g); (B, D) stays as it is.

    Windows overlap where the grid does not divide the map, so that they cover it all and have one size; a map
    smaller than the grid gives its every pixel. One strided pooling is 5 to 8 times faster than a mean over (2, 3).
    """
    if activation.dim() == 2:
        return activation
    height, width = activation.shape[2:]
    strides = [max(size // grid, 1) for size in (height, width)]
    kernels = [size - (min(grid, size) - 1) * stride for size, stride in zip((height, width), strides, strict=True)]
    if kernels == strides and activation.requires_grad and torch.is_grad_enabled():
        return _TilePool.apply(activation, kernels[0], kernels[1]).flatten(1)
    return F.avg_pool2d(activation, kernels, strides).flatten(1)


class _TilePool(torch.autograd.Function):
    """Average pooling by windows that tile the map: its gradient is one copy.

    PyTorch's own took 20 % of a block's step on channels-last maps.
    """

    @staticmethod
    def forward(activation: Tensor, high: int, wide: int) -> Tensor:
        return F.avg_pool2d(activation, (high, wide))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int, int], output: Tensor) -> None:
        activation, *ctx.window = inputs
        ctx.channels_last = activation.is_contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        high, wide = ctx.window
        rows, columns = gradient.shape[2:]
        share = gradient / (high * wide)
        if ctx.channels_last:
            share = share.permute(0, 2, 3, 1).contiguous()[:, :, None, :, None]
            return share.expand(-1, -1, high, -1, wide, -1).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2), None, None
        share = share[:, :, :, None, :, None].expand(-1, -1, -1, high, -1, wide)
        return share.reshape(*gradient.shape[:2], rows * high, columns * wide), None, None


def mean_square(activation: Tensor) -> Tensor:
    """Mean of the squares of each example's features: (B, ...) -> (B,), in float32 at least."""
    if activation.requires_grad and torch.is_grad_enabled():
        return _MeanSquare.apply(activation)
    return _MeanSquare.forward(activation)


class _MeanSquare(torch.autograd.Function):
    """One pass over the activation, no float32 copy of it, and the gradient 2 x / D as one product."""

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


def grid_size(shape: Sequence[int], grid: int) -> int:
    """How many features `grid_pool` makes of an activation of `shape` (without the batch)."""
    if len(shape) == 1:
        return shape[0]
    channels, height, width = shape
    return channels * min(grid, height) * min(grid, width)


def instance_norm(activation: Tensor) -> Tensor:
    """Each channel of each example with zero mean and unit deviation over space; no parameters.

    Where there is no space to average over, (B, D) or 1 x 1 maps, the same over all features of an example.
    """
    if activation.dim() == 4 and activation.shape[2] * activation.shape[3] > 1:
        return F.instance_norm(activation)
    return F.layer_norm(activation, activation.shape[1:])


def group_index(channels: int, classes: int) -> Tensor:
    """The class that each channel belongs to, (K,): groups of one size, or two that differ by one.

    Raises:
        ValueError: fewer channels than classes.
    """
    if channels < classes:
        raise ValueError(
            f"A layer has {channels} channels: too few for {classes} classes, which need a group of one channel each."
        )
    return torch.arange(channels) * classes // channels


def group_norm(activation: Tensor, groups: Tensor, count: int, epsilon: float = 1e-5) -> Tensor:
    """Each group of channels of each example with zero mean and unit deviation; no parameters.

    Args:
        activation: (B, K, H, W) or (B, D).
        groups: (K,) or (D,), the group of each channel; the groups may differ in size.
        count: how many groups there are.
    """
    if len(groups) % count == 0 and activation.dim() == 4:
        return F.group_norm(activation, count, eps=epsilon)
    values = activation.float().flatten(2) if activation.dim() == 4 else activation.float().unsqueeze(2)
    member = F.one_hot(groups, count).float()
    member = member / member.sum(0)
    mean = values.mean(2) @ member
    square = values.square().mean(2) @ member
    deviation = (square - mean.square()).clamp_min(0).add(epsilon).sqrt()
    normed = (values - mean[:, groups].unsqueeze(2)) / deviation[:, groups].unsqueeze(2)
    return normed.view(activation.shape).to(activation.dtype)
