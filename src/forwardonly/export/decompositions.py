"""Gradients of layers, and attention, as operations that every inference runtime supports.

PyTorch decomposes most derivatives into plain arithmetic itself; these are the ones that it keeps as operators.

Shapes: B batch, I and O channels in and out, H x W space, T tokens, D channels of a head.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._decomp import core_aten_decompositions, get_decompositions

aten = torch.ops.aten


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention (..., T, D), as plain products: ONNX's converter takes four axes alone, and windows make five."""
    if enable_gqa:
        key, value = (of.repeat_interleave(query.shape[-3] // of.shape[-3], -3) for of in (key, value))
    scores = query * (query.shape[-1] ** -0.5 if scale is None else scale) @ key.transpose(-2, -1)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return torch.dropout(scores.softmax(-1), dropout_p, dropout_p > 0) @ value


def convolution_backward(
    gradient: Tensor,
    signal: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of a convolution's input (B, I, H, W), weight (O, I, h, w) and bias (O,), as convolutions and a sum.

    Raises:
        ValueError: a transposed or grouped convolution, or one of one or three dimensions, whose gradient is not
            implemented.
    """
    if transposed or groups != 1:
        raise ValueError("The training step of transposed or grouped convolutions cannot be exported.")
    if weight.dim() != 4:
        raise ValueError("The training step of convolutions can be exported where they have two dimensions alone.")
    to_signal = to_weight = to_bias = None
    if wanted[0]:
        # output_padding: the rows and columns at the far side that the stride leaves over
        reach = [d * (k - 1) + 1 for d, k in zip(dilation, weight.shape[2:], strict=True)]
        covered = [
            (n - 1) * s - 2 * p + r for n, s, p, r in zip(gradient.shape[2:], stride, padding, reach, strict=True)
        ]
        rest = [size - part for size, part in zip(signal.shape[2:], covered, strict=True)]
        to_signal = F.conv_transpose2d(gradient, weight, None, stride, padding, rest, 1, dilation)
    if wanted[1]:
        # Batch and channels change places: (I, B, H, W) correlated with (O, B, ...) is (I, O, h, w).
        turned = F.conv2d(signal.transpose(0, 1), gradient.transpose(0, 1), None, dilation, padding, stride)
        height, width = weight.shape[2:]
        # Else autograd copies it into a tensor of the weight's layout, by an operator that ExecuTorch does not have.
        to_weight = turned[:, :, :height, :width].transpose(0, 1).contiguous()
    if wanted[2]:
        to_bias = gradient.sum((0, 2, 3))
    return to_signal, to_weight, to_bias


def avg_pool2d_backward(
    gradient: Tensor,
    signal: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None,
) -> Tensor:
    """Spreads each window's gradient evenly over its pixels: (B, K, h, w) -> (B, K, H, W).

    Raises:
        ValueError: padded windows or a custom divisor, which nothing in this library uses.
    """
    if any(padding) or ceil_mode or divisor is not None:
        raise ValueError("The training step of padded average pooling cannot be exported.")
    stride = stride or kernel
    channels, height, width = signal.shape[1:]
    even = torch.full((1, 1, *kernel), 1 / (kernel[0] * kernel[1]), dtype=gradient.dtype, device=gradient.device)
    flat = gradient.reshape(-1, 1, *gradient.shape[2:])
    spread = F.conv_transpose2d(flat, even, stride=stride)
    missing = (0, width - spread.shape[3], 0, height - spread.shape[2])
    return F.pad(spread, missing).reshape(-1, channels, height, width)


def max_pool2d_backward(
    gradient: Tensor,
    signal: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    indices: Tensor,
) -> Tensor:
    """Puts each window's gradient at the pixel that was its maximum: (B, K, h, w) -> (B, K, H, W)."""
    blank = torch.zeros_like(signal).flatten(2)
    return blank.scatter_add(2, indices.flatten(2), gradient.flatten(2)).view(signal.shape)


def var_mean(
    signal: Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    """Variance and mean as two operators, for ExecuTorch has none that gives both."""
    axes = list(range(signal.dim())) if dim is None else list(dim)
    return signal.var(axes, correction=correction, keepdim=keepdim), signal.mean(axes, keepdim=keepdim)


def table() -> dict[Any, Callable[..., Any]]:
    """Every decomposition that the training step needs, by PyTorch's operator."""
    norms = [  # ONNX's own batch norm would use the running statistics, and learn wrong weights
        aten.native_batch_norm,
        aten._native_batch_norm_legit,
        aten._native_batch_norm_legit_functional,
        aten.native_batch_norm_backward,
        aten.native_layer_norm_backward,
    ]
    known = get_decompositions([aten.addmm, *norms])
    return {
        **core_aten_decompositions(),
        **known,
        aten.convolution_backward.default: convolution_backward,
        aten.avg_pool2d_backward.default: avg_pool2d_backward,
        aten.max_pool2d_with_indices_backward.default: max_pool2d_backward,
        aten.var_mean.correction: var_mean,
    }
