"""Attention and backward passes as plain operations, which any runtime has: they compute what PyTorch's own do."""

import numpy as np
import onnxruntime
import pytest
import torch

import forwardonly as fo
from forwardonly.export import export_network
from forwardonly.export.decompositions import attention, avg_pool2d_backward, convolution_backward, max_pool2d_backward


class Attention(torch.nn.Module):
    """Attention with a bias for each pair of tokens, its heads joined by a view or a copy as their layout has it."""

    def __init__(self):
        super().__init__()
        self.qkv, self.join = torch.nn.Linear(12, 36), torch.nn.Linear(12, 12)
        self.bias = torch.nn.Parameter(torch.randn(3, 5, 5))

    def forward(self, tokens):
        q, k, v = self.qkv(tokens).unflatten(-1, (3, 3, 4)).permute(2, 0, 3, 1, 4)
        seen = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=self.bias[None])
        return tokens + self.join(seen.transpose(1, 2).reshape(tokens.shape))


class Windows(torch.nn.Module):
    """Attention (B, windows, heads, tokens, D) within two windows of tokens."""

    def __init__(self):
        super().__init__()
        self.qkv, self.join = torch.nn.Linear(12, 36), torch.nn.Linear(12, 12)

    def forward(self, tokens):
        q, k, v = self.qkv(tokens).unflatten(1, (2, 3)).unflatten(-1, (3, 3, 4)).permute(3, 0, 1, 4, 2, 5)
        seen = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return tokens + self.join(seen.transpose(-2, -3).reshape(tokens.shape))


@pytest.mark.parametrize(("layer", "length"), [(Attention, 5), (Windows, 6)])
def test_attention_with_a_bias_or_over_windows_has_onnx_of_any_batch(tmp_path, layer, length):
    torch.manual_seed(0)
    model = torch.nn.Sequential(layer(), layer())
    tokens = torch.randn(4, length, 12)
    net = fo.localize(model, fo.rules.Projection(classes=3), (tokens[:2],)).eval()
    (path,) = export_network(net, tmp_path, format="onnx")
    session = onnxruntime.InferenceSession(str(path))
    (scores, *_) = session.run(None, {session.get_inputs()[0].name: tokens.numpy()})
    np.testing.assert_allclose(scores, net((tokens,)).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"scale": 0.3},
        {"is_causal": True},
        {"attn_mask": torch.tensor([[True, False, True]] * 3)},
        {"attn_mask": torch.arange(9.0).reshape(3, 3)},
        {"enable_gqa": True},
    ],
    ids=("scale", "causal", "mask", "bias", "groups"),
)
def test_attention_as_plain_products_is_pytorchs(options):
    generator = torch.Generator().manual_seed(0)
    heads = 2 if "enable_gqa" in options else 4
    q, k, v = (torch.randn(2, 3, count, 3, 5, generator=generator) for count in (4, heads, heads))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, **options)
    torch.testing.assert_close(attention(q, k, v, **options), expected)


@pytest.mark.parametrize(("stride", "padding", "side"), [(1, 1, 7), (2, 1, 8), (2, 0, 9), (3, 2, 10)])
def test_convolution_backward_is_autograds(stride, padding, side):
    signal = torch.randn(3, 2, side, side, dtype=torch.double, requires_grad=True)
    weight = torch.randn(4, 2, 3, 3, dtype=torch.double, requires_grad=True)
    bias = torch.randn(4, dtype=torch.double, requires_grad=True)
    out = torch.nn.functional.conv2d(signal, weight, bias, stride, padding)
    gradient = torch.randn_like(out)
    expected = torch.autograd.grad(out, (signal, weight, bias), gradient)
    sizes, pair = [4], [1, 1]
    got = convolution_backward(
        gradient, signal, weight, sizes, [stride] * 2, [padding] * 2, pair, False, [0, 0], 1, [True] * 3
    )
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_pooling_backward_is_autograds():
    signal = torch.randn(2, 3, 7, 8, dtype=torch.double, requires_grad=True)
    mean = torch.nn.functional.avg_pool2d(signal, [3, 4], [2, 2])
    gradient = torch.randn_like(mean)
    (expected,) = torch.autograd.grad(mean, signal, gradient)
    got = avg_pool2d_backward(gradient, signal, [3, 4], [2, 2], [0, 0], False, True, None)
    torch.testing.assert_close(got, expected)
    largest, indices = torch.nn.functional.max_pool2d(signal, 3, 2, return_indices=True)
    gradient = torch.randn_like(largest)
    (expected,) = torch.autograd.grad(largest, signal, gradient)
    got = max_pool2d_backward(gradient, signal, [3, 3], [2, 2], [0, 0], [1, 1], False, indices)
    torch.testing.assert_close(got, expected)
