"""Gradients in closed form equal autograd's of the plain formula."""

import math

import pytest
import torch

from forwardonly.ops.norms import mean_square
from forwardonly.ops.pooling import grid_pool

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def maps(layout, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3, 5, 8, 12, generator=generator, dtype=torch.float64)
    return values.to(dtype).contiguous(memory_format=layout).requires_grad_()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("grid", [1, 2, 3, 4, 5, 20])
def test_pooling_and_its_gradient_are_those_of_the_mean_over_windows(layout, grid):
    ours, plain = maps(layout), maps(layout)
    high, wide = math.ceil(8 / grid), math.ceil(12 / grid)
    windows = [rows.split(wide, dim=3) for rows in plain.split(high, dim=2)]
    pooled = torch.stack([torch.stack([own.mean((2, 3)) for own in row], 2) for row in windows], 2).flatten(1)
    weights = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (grid_pool(ours, grid) * weights).sum().backward()
    (pooled * weights).sum().backward()
    assert torch.allclose(grid_pool(ours, grid), pooled)
    assert torch.allclose(ours.grad, plain.grad)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_pools_gradient_lies_as_the_maps_do(layout):
    ours = maps(layout)
    (gradient,) = torch.autograd.grad(grid_pool(ours, 2).square().sum(), ours)
    assert gradient.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-6), (torch.bfloat16, 0.01)])
def test_mean_square_and_its_gradient(layout, dtype, tolerance):
    ours, plain = maps(layout, dtype), maps(layout, dtype)
    mean_square(ours).square().sum().backward()
    plain.double().square().flatten(1).mean(1).square().sum().backward()
    assert torch.allclose(mean_square(ours).double(), plain.double().square().flatten(1).mean(1), rtol=tolerance)
    assert torch.allclose(
        ours.grad.double(), plain.grad.double(), rtol=tolerance, atol=tolerance * float(plain.grad.abs().max())
    )


def test_mean_square_of_zeros_has_a_gradient_of_zero():
    zeros = torch.zeros(2, 3, requires_grad=True)
    mean_square(zeros).sum().backward()
    assert torch.equal(zeros.grad, torch.zeros(2, 3))


def test_second_derivatives():
    assert torch.autograd.gradgradcheck(lambda x: mean_square(x).double(), (maps(LAYOUTS[0])[:1, :2, :2, :2],))
    assert torch.autograd.gradgradcheck(lambda x: grid_pool(x, 2).square(), (maps(LAYOUTS[0])[:1, :2, :4, :4],))
