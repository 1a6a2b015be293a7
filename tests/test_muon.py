"""Muon against numpy written from its definition, and the parameters that it trains."""

import numpy as np
import pytest
import torch
from torch import nn

import forwardonly as fo
from forwardonly.network.label_classifier import LabelClassifier
from forwardonly.training import TrainingConfig
from forwardonly.training.optim import parameter_groups
from forwardonly.training.optim.muon import Muon, orthogonal
from forwardonly.training.update import Update


def pushed(matrix):
    """Each singular value s of the matrix, divided by its length, becomes a s + b s^3 + c s^5, three times."""
    left, values, right = np.linalg.svd(matrix / np.linalg.norm(matrix), full_matrices=False)
    for _ in range(3):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return left @ np.diag(values) @ right


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (8, 8)])
def test_singular_values_are_pushed_towards_one(shape):
    matrix = np.random.default_rng(0).normal(size=shape)
    ours = orthogonal(torch.tensor(matrix)).numpy()
    np.testing.assert_allclose(ours, pushed(matrix), atol=1e-5)
    if shape[0] != shape[1]:  # no singular value is small then
        assert np.abs(np.linalg.svd(ours, compute_uv=False) - 1).max() < 0.35


def test_a_step_is_measured_by_a_length_that_stays():
    generator = np.random.default_rng(1)
    start, gradients = generator.normal(size=(4, 3, 3, 3)), generator.normal(size=(3, 4, 3, 3, 3))
    weight = nn.Parameter(torch.tensor(start))
    optimiser = Muon([weight], lr=0.1)
    expected, direction = start, np.zeros_like(start)
    for gradient in gradients:
        weight.grad = torch.tensor(gradient)
        optimiser.step()
        direction = 0.6 * direction + gradient
        update = pushed((gradient + 0.6 * direction).reshape(4, 27)).reshape(start.shape)
        length = np.linalg.norm(start)
        expected = expected - 0.1 * length * update / 2  # the root of 4 rows
        expected = expected * length / np.linalg.norm(expected)
        np.testing.assert_allclose(weight.detach().numpy(), expected, atol=1e-5)
    assert weight.norm().item() == pytest.approx(np.linalg.norm(start))


def test_state_made_early_is_that_of_the_first_step():
    start, gradient = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
    stepped = []
    for early in (True, False):
        weight = nn.Parameter(start.clone())
        optimiser = Muon([weight])
        if early:
            optimiser.allocate()
            assert set(optimiser.state[weight]) == {"direction", "length"} and weight.equal(start)
        weight.grad = gradient
        optimiser.step()
        stepped.append(weight.detach())
    assert stepped[0].equal(stepped[1])


def test_it_survives_a_gradient_and_a_weight_of_zeros():
    weight = nn.Parameter(torch.zeros(3, 5))
    weight.grad = torch.zeros(3, 5)
    Muon([weight]).step()
    assert torch.equal(weight, torch.zeros(3, 5))


@pytest.mark.parametrize(
    ("rule", "own"),
    [
        (fo.rules.Auxiliary(classes=4), {"rule.convolved.0.weight", "rule.hidden.0.weight"}),
        (fo.rules.Hyperspherical(classes=4), {"rule.auxiliary.0.weight"}),
        (fo.rules.Projection(classes=4), set()),
    ],
)
def test_hidden_weights_are_its_own_and_read_outs_are_not(rule, own):
    block = fo.build(fo.bodies.Six(width=0.1), (3, 16, 16), rule=rule).row[0]
    names = given(block)
    assert names["muon"] == {"body.0.weight", *own}
    assert names["sgd"] == {key for key, _ in block.named_parameters()} - names["muon"]


def test_a_reader_has_no_hidden_weights():
    assert set(given(LabelClassifier([8, 8], classes=4))) == {"sgd"}


def given(module):
    """Names of a module's parameters by the optimiser that they are given to, of a recipe with Muon."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return {
        optimiser: {names[id(parameter)] for group in groups for parameter in group["params"]}
        for optimiser, groups in parameter_groups(module, TrainingConfig(optimiser="muon")).items()
    }


@pytest.mark.parametrize(("given", "expected"), [({}, (0.6, 0.9)), ({"momentum": 0.95}, (0.95, 0.9))])
def test_momentum_is_muons_and_sgd_keeps_its_own(given, expected):
    """SGD moves what Muon does not: read-outs, and whatever has one dimension."""
    net = fo.mlp((1, 4, 4), [12, 10], rule=fo.rules.Projection(classes=3))
    muon, sgd = Update(net.row[0], fo.training.TrainingConfig(optimiser="muon", **given)).optimisers
    assert (muon.defaults["momentum"], sgd.defaults["momentum"]) == expected


def test_momentum_changes_what_muon_does():
    weights = []
    for momentum in (0.0, 0.9):
        weight = torch.nn.Parameter(torch.ones(3, 4))
        optimiser = Muon([weight], lr=0.1, momentum=momentum)
        for step in range(2):
            weight.grad = torch.arange(12.0).view(3, 4).roll(step)
            optimiser.step()
        weights.append(weight.detach().clone())
    assert not torch.allclose(*weights)


def test_weights_that_begin_at_zero_are_given_to_sgd_and_move():
    """Muon keeps a weight's norm, and that of zeros is 0."""
    net = fo.mlp((6,), [5], rule=fo.rules.Projection(classes=3))
    (name,) = [name for name in given(net.row[0])["muon"] if name.startswith("body.")]
    weight = net.row[0].get_parameter(name)
    torch.nn.init.zeros_(weight)
    torch.nn.init.ones_(net.row[0].get_parameter(name.replace("weight", "bias")))  # or no unit would be active
    assert name in given(net.row[0])["sgd"]
    fo.fit(net, (torch.rand(40, 6), torch.arange(40) % 3), epochs=2, batch_size=8, optimiser="muon")
    assert weight.abs().max() > 0
