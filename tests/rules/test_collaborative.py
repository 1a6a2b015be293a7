"""Collaborative Forward-Forward and layer collaboration against numpy written from arXiv 2512.17531 and 2305.12393."""

import numpy as np
import pytest
import torch

import forwardonly as fo
from forwardonly.rules import CollaborativeAdaptive, CollaborativeFixed, ForwardForward, LayerCollaboration
from forwardonly.rules.base import BlockPosition, PeerGoodness
from forwardonly.training.batch import Batch
from forwardonly.training.step import Context
from forwardonly.training.strategies import whole_step

DEPTH, OWN, BATCH = 3, 1, 7


def softplus(z):
    return np.log1p(np.exp(-np.abs(z))) + np.maximum(z, 0)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


@pytest.fixture
def goodness():
    """Goodness of three blocks on both streams, (2, L, B)."""
    return np.random.default_rng(0).gamma(2.0, 1.0, size=(2, DEPTH, BATCH))


def peers(goodness, rows=slice(None)):
    return PeerGoodness(*(torch.tensor(stream[rows]) for stream in goodness))


def own(goodness):
    return [torch.tensor(stream[OWN], requires_grad=True) for stream in goodness]


def collective(goodness, gamma, alpha):
    """Equation 5 for the block in the middle: (2, B)."""
    return goodness[:, OWN] + gamma * sum(alpha[OWN][k] * goodness[:, k] for k in range(DEPTH) if k != OWN)


def equation_8(collected, theta):
    return 0.5 * np.mean(softplus(-(collected[0] - theta)) + softplus(collected[1] - theta))


@pytest.mark.parametrize("theta", [2.0, 0.0])  # 0 is equation 8 to the letter
@pytest.mark.parametrize("weights", [(1.0,), tuple(np.random.default_rng(1).random(DEPTH**2))])
def test_loss_and_gradient_are_the_papers(goodness, theta, weights):
    alpha = np.broadcast_to(weights, DEPTH**2).reshape(DEPTH, DEPTH)
    collected = collective(goodness, 0.8, alpha)
    rule = CollaborativeFixed(classes=10, sharpness=1.0, threshold_enters=theta > 0, initial_gamma=0.8, weights=weights)
    rule = rule.for_block((5,), BlockPosition(OWN, DEPTH)).double()
    streams = own(goodness)
    loss = rule.loss(*streams, peers(goodness))
    loss.backward()
    # tolerances: alpha is kept in float32
    assert loss.item() == pytest.approx(equation_8(collected, theta), rel=1e-6)
    np.testing.assert_allclose(streams[0].grad, -0.5 * sigmoid(theta - collected[0]) / BATCH, rtol=1e-5)
    np.testing.assert_allclose(streams[1].grad, 0.5 * sigmoid(collected[1] - theta) / BATCH, rtol=1e-5)


def test_gradient_of_gamma_is_equation_7s(goodness):
    rule = CollaborativeAdaptive(classes=10, sharpness=1.0).for_block((5,), BlockPosition(OWN, DEPTH)).double()
    rule.loss(*own(goodness), peers(goodness)).backward()
    others = goodness.sum(1) - goodness[:, OWN]
    collected = goodness[:, OWN] + others
    pull = -sigmoid(2 - collected[0]) * others[0] + sigmoid(collected[1] - 2) * others[1]
    assert rule.gamma.grad.item() == pytest.approx(0.5 * pull.mean(), rel=1e-6)


def test_only_earlier_blocks_take_part_when_asked(goodness):
    rule = (
        CollaborativeFixed(classes=10, peers="earlier", sharpness=1.0)
        .for_block((5,), BlockPosition(OWN, DEPTH))
        .double()
    )
    assert rule.needs_peers == "earlier"
    alpha = np.tril(np.ones((DEPTH, DEPTH)), -1)
    loss = rule.loss(*own(goodness), peers(goodness, slice(OWN)))
    assert loss.item() == pytest.approx(equation_8(collective(goodness, 1.0, alpha), 2.0), rel=1e-6)


def test_without_gamma_it_is_half_of_forward_forward(goodness):
    rule = CollaborativeFixed(classes=10, initial_gamma=0.0).for_block((5,), BlockPosition(OWN, DEPTH))
    plain = ForwardForward(classes=10).loss(*own(goodness))
    torch.testing.assert_close(rule.loss(*own(goodness), peers(goodness)), plain / 2)


def test_the_ablation_scales_the_blocks_own_goodness_alone(goodness):
    rule = CollaborativeAdaptive(classes=10, sharpness=1.0, gamma_scales="own", initial_gamma=0.7)
    rule = rule.for_block((5,), BlockPosition(OWN, DEPTH)).double()
    assert rule.needs_peers == "none"
    loss = rule.loss(*own(goodness), None)
    assert loss.item() == pytest.approx(equation_8(0.7 * goodness[:, OWN], 2.0), rel=1e-6)


def test_the_others_goodness_is_given_unless_asked_otherwise(goodness):
    rows = PeerGoodness(*(torch.tensor(stream, requires_grad=True) for stream in goodness))
    for stop in (True, False):
        rule = CollaborativeFixed(classes=10, stop_gradient=stop).for_block((5,), BlockPosition(OWN, DEPTH)).double()
        gradients = torch.autograd.grad(rule.loss(*own(goodness), rows), list(rows), allow_unused=True)
        if stop:
            assert gradients == (None, None)
        else:
            assert (gradients[0][0] != 0).all() and (gradients[0][OWN] == 0).all()


@pytest.mark.parametrize("which", ["all", "earlier"])
def test_layer_collaboration_is_lorberboms(goodness, which):
    rule = LayerCollaboration(classes=10, peers=which, threshold=3.0, sharpness=1.0).for_block(
        (5,), BlockPosition(OWN, DEPTH)
    )
    counted = [k for k in range(DEPTH) if k != OWN and (which == "all" or k < OWN)]
    p_pos, p_neg = (sigmoid(stream[OWN] + stream[counted].sum(0) - 3.0) for stream in goodness)
    streams = own(goodness)
    loss = rule.loss(*streams, peers(goodness, slice(None) if which == "all" else slice(OWN)))
    loss.backward()
    assert loss.item() == pytest.approx(-np.mean(np.log(p_pos) + np.log(1 - p_neg)), rel=1e-9)
    np.testing.assert_allclose(streams[0].grad, (p_pos - 1) / BATCH, rtol=1e-9)
    np.testing.assert_allclose(streams[1].grad, p_neg / BATCH, rtol=1e-9)


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="3 x 3 of them, not 4"):
        CollaborativeFixed(classes=10, weights=(1.0,) * 4).for_block((5,), BlockPosition(0, 3))
    with pytest.raises(ValueError, match="needs peers='all'"):
        CollaborativeFixed(classes=10, peers="earlier", stop_gradient=False)


def test_gamma_is_stepped_by_plain_descent_at_its_own_rate(images):
    rule = CollaborativeAdaptive(classes=4, gamma_rate=0.25, negatives="uniform")
    net = fo.mlp(images.shape, [12, 9], rule=rule)
    row = net.row
    wrong = (images.labels + 1) % 4
    signal = net.present(images.images, images.labels, wrong=wrong)
    told = []
    for block in row:
        activation = block(signal)
        told.append(block.rule.streams(activation))
        signal = block.pass_on(activation, signal)
    rows = PeerGoodness(*(torch.stack(stream) for stream in zip(*told, strict=True)))
    expected = [
        1 - 0.25 * torch.autograd.grad(block.rule.loss(*streams, rows), block.rule.gamma)[0].item()
        for block, streams in zip(row, told, strict=True)
    ]
    updates = [fo.training.update.Update(block, fo.training.TrainingConfig(optimiser="adam")) for block in row]
    first = net.present(images.images, images.labels, wrong=wrong)
    whole_step(net, updates, Batch(first, images.labels), Context("fp32"))
    assert [block.rule.gamma.item() for block in row] == pytest.approx(expected, rel=1e-5)
