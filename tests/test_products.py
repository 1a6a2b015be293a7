"""The product of a read-out: PyTorch's own in float32; of bf16 features exact scores and close gradients."""

import pytest
import torch
import torch.nn.functional as F

from forwardonly.ops.norms import mean_square
from forwardonly.ops.scores import scores_of


def gradients(scores, features, weight, bias, weights_of_sum):
    return torch.autograd.grad((scores * weights_of_sum).sum(), [features, weight, bias])


@pytest.fixture
def parts():
    generator = torch.Generator().manual_seed(0)
    features, weight = torch.randn(8, 50, generator=generator), torch.randn(5, 50, generator=generator)
    bias, weights_of_sum = torch.randn(5, generator=generator), torch.randn(8, 5, generator=generator)
    return features, weight.requires_grad_(), bias.requires_grad_(), weights_of_sum


def test_in_float32_it_is_a_linear_map(parts):
    features, weight, bias, weights_of_sum = parts
    features.requires_grad_()
    ours, theirs = scores_of(features, weight, bias), F.linear(features, weight, bias)
    torch.testing.assert_close(ours, theirs)
    both = (gradients(scores, features, weight, bias, weights_of_sum) for scores in (ours, theirs))
    for mine, reference in zip(*both, strict=True):
        torch.testing.assert_close(mine, reference)


def test_bf16_features_have_exact_scores_and_gradients_in_their_own_types(parts):
    features, weight, bias, weights_of_sum = parts
    features = features.bfloat16().requires_grad_()
    exact = features.detach().float().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = scores_of(features, weight, bias)
    theirs = F.linear(exact, weight, bias)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs)
    mine = gradients(ours, features, weight, bias, weights_of_sum)
    reference = gradients(theirs, exact, weight, bias, weights_of_sum)
    assert [gradient.dtype for gradient in mine] == [torch.bfloat16, torch.float32, torch.float32]
    for one, other in zip(mine, reference, strict=True):
        assert (one.float() - other).norm() < 0.01 * other.norm()


def test_no_gradient_where_none_is_wanted(parts):
    features, weight, _, _ = parts
    scores_of(features, weight).sum().backward()
    assert features.grad is None and weight.grad is not None


def test_networks_of_one_shape_are_computed_as_one():
    """Products and norms under `torch.func.vmap`, over weights and features: what each gives by itself."""

    def value(features, weight):
        return (scores_of(features, weight) * mean_square(features)[:, None]).sin().sum()

    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, 6, 5, generator=generator, requires_grad=True)
    weights = torch.randn(3, 4, 5, generator=generator, requires_grad=True)
    together = torch.autograd.grad(torch.func.vmap(value)(features, weights).sum(), (features, weights))
    for k in range(3):
        alone = torch.autograd.grad(value(features[k], weights[k]), (features, weights))
        for one, three in zip(alone, together, strict=True):
            torch.testing.assert_close(three[k], one[k])
