"""Pooling of feature maps: to a grid, over space, of products of channels. Plain functions without parameters.

Shapes: B batch, K channels, H x W space, g grid; flat activations (B, D) go through unpooled.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def grid_pool(activation: Tensor, grid: int) -> Tensor:
    """Means over at most grid x grid windows: (B, K, H, W) -> (B, K h w); (B, D) stays as it is.

    Windows tile the map. Where they cannot all have one size, those of the last row and column are smaller; of a map
    smaller than the grid every pixel is a window. One strided pooling is 5 to 8 times faster than a mean over (2, 3).
    """
    if activation.dim() == 2:
        return activation
    windows = [_window(size, grid) for size in activation.shape[2:]]
    if activation.requires_grad and torch.is_grad_enabled():
        return _TilePool.apply(activation, *windows).flatten(1)
    return _TilePool.forward(activation, *windows).flatten(1)


def grid_size(shape: Sequence[int], grid: int) -> int:
    """Number of features that `grid_pool` makes of an activation of `shape` (without the batch)."""
    if len(shape) == 1:
        return shape[0]
    channels, *sides = shape
    return channels * math.prod(-(-size // _window(size, grid)) for size in sides)


def grid_for(shape: Sequence[int], features: int) -> int:
    """The grid with which `grid_pool` makes closest to `features` features of an activation of `shape`."""
    return min(range(1, max(shape[1:], default=1) + 1), key=lambda grid: abs(grid_size(shape, grid) - features))


def _window(size: int, grid: int) -> int:
    """The side of a window when at most `grid` of them tile a side."""
    return -(-size // grid)


class _TilePool(torch.autograd.Function):
    """Average pooling by windows that tile the map, whose gradient is one copy.

    PyTorch's own took 20 % of a block's step on channels-last maps.
    """

    @staticmethod
    def forward(activation: Tensor, high: int, wide: int) -> Tensor:
        return F.avg_pool2d(activation, (high, wide), ceil_mode=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int, int], output: Tensor) -> None:
        activation, *ctx.window = inputs
        ctx.sides = activation.shape[2:]
        ctx.channels_last = activation.is_contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        (high, wide), (height, width) = ctx.window, ctx.sides
        share = gradient / (high * wide)
        if height % high or width % wide:
            rows, columns = (_sizes(size, window, gradient) for size, window in zip(ctx.sides, ctx.window, strict=True))
            share = gradient / (rows[:, None] * columns)
        if ctx.channels_last:
            share = share.permute(0, 2, 3, 1).contiguous()[:, :, None, :, None]
            spread = share.expand(-1, -1, high, -1, wide, -1).flatten(3, 4).flatten(1, 2)
            return spread[:, :height, :width].permute(0, 3, 1, 2), None, None
        spread = share[:, :, :, None, :, None].expand(-1, -1, -1, high, -1, wide).flatten(4, 5).flatten(2, 3)
        return spread[:, :, :height, :width], None, None


def _sizes(size: int, window: int, like: Tensor) -> Tensor:
    """The sizes of the windows that tile a side."""
    starts = torch.arange(0, size, window, device=like.device, dtype=like.dtype)
    return (size - starts).clamp_max(window)


def product_pool(activation: Tensor, group: int, window: int, length: float = 1.0) -> Tensor:
    """Means over windows of the products of all pairs of channels of a group: (B, K, H, W) -> (B, P).

    The result is scaled to `length`. Windows of one size tile the map, and channels form groups of one size; both are
    padded with zeros at their end. The scale is a constant to the gradient, which would otherwise need further passes
    over all products.
    """
    batch, channels, *sides = activation.shape
    group = min(group, channels)
    high, wide = (_window(side, -(-side // window)) for side in sides)
    down, right = (-sides[0] % high, -sides[1] % wide)
    pixels = F.pad(activation.permute(0, 2, 3, 1), (0, -channels % group, 0, right, 0, down))
    pixels = pixels.unflatten(3, (-1, group)).unflatten(2, (-1, wide)).unflatten(1, (-1, high))
    rows = pixels.permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, high * wide, group)
    if rows.requires_grad and torch.is_grad_enabled():
        return _Products.apply(rows, batch, length)[0]
    return _Products.forward(rows, batch, length)[0]


class _Products(torch.autograd.Function):
    """One product and one scaling forwards, and as many backwards; autograd's own takes twice that."""

    @staticmethod
    def forward(rows: Tensor, batch: int, length: float) -> tuple[Tensor, Tensor]:
        products = torch.bmm(rows.transpose(1, 2), rows).view(batch, -1)
        dtype = torch.promote_types(rows.dtype, torch.float32)
        norm = torch.linalg.vector_norm(products, dim=1, keepdim=True, dtype=dtype)
        scale = (length / norm.clamp_min(1e-3)).to(rows.dtype)  # zeros of an image without contrast stay zeros
        return products * scale, scale

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int, float], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(inputs[0], output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        rows, scale = ctx.saved_tensors
        gradient = (gradients[0] * scale).view(len(rows), rows.shape[2], rows.shape[2])
        return torch.baddbmm(torch.bmm(rows, gradient), rows, gradient.transpose(1, 2)), None, None


def space_mean(activation: Tensor) -> Tensor:
    """Mean over space in float32 at least, in memory order: (B, K, H, W) -> (B, K)."""
    dtype = torch.promote_types(activation.dtype, torch.float32)
    if activation.is_contiguous(memory_format=torch.channels_last):
        pixels = activation.permute(0, 2, 3, 1).flatten(1, 2)
        return pixels.sum(1, dtype=dtype) / pixels.shape[1]
    return activation.flatten(2).mean(2, dtype=dtype)


def channel_scores(activation: Tensor, mean: float, largest: float, smallest: float) -> Tensor:
    """mean * average + largest * maximum + smallest * minimum over space: (B, K, H, W) -> (B, K), in float32 at least.

    (B, D) stays as it is. Where several pixels are largest, the gradient goes to the first of them.
    """
    if activation.dim() == 2:
        return activation.to(torch.promote_types(activation.dtype, torch.float32))
    if activation.requires_grad and torch.is_grad_enabled():
        return _ChannelScores.apply(activation, mean, largest, smallest)[0]
    return _ChannelScores.forward(activation, mean, largest, smallest)[0]


class _ChannelScores(torch.autograd.Function):
    """Pooling by windows as large as the map, 10 times as fast as `amax`; the gradient is one copy."""

    @staticmethod
    def forward(activation: Tensor, mean: float, largest: float, smallest: float) -> tuple[Tensor, ...]:
        score = mean * space_mean(activation)
        places = []
        for weight, sign in ((largest, 1), (smallest, -1)):
            if weight:
                extreme, place = F.max_pool2d(sign * activation, activation.shape[2:], return_indices=True)
                score = score + (sign * weight) * extreme.flatten(1).to(score.dtype)
                places.append(place)
        return score, *places

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        activation, *ctx.weights = inputs
        ctx.shape, ctx.dtype = activation.shape, activation.dtype
        ctx.channels_last = activation.is_contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(*output[1:])
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor, None, None, None]:
        assert gradients[0] is not None
        mean, *weights = ctx.weights
        batch, channels, height, width = ctx.shape
        gradient = gradients[0].to(ctx.dtype)
        axis = 1 if ctx.channels_last else 2
        spread = (gradient * (mean / (height * width))).unsqueeze(axis)
        lying = (batch, height * width, channels) if ctx.channels_last else (batch, channels, height * width)
        spread = spread.expand(lying).contiguous()
        for weight, place in zip(filter(None, weights), ctx.saved_tensors, strict=True):
            spread.scatter_add_(axis, place.flatten(1).unsqueeze(axis), (weight * gradient).unsqueeze(axis))
        if ctx.channels_last:
            return spread.view(batch, height, width, channels).permute(0, 3, 1, 2), None, None, None
        return spread.view(ctx.shape), None, None, None
