"""Cumulative goodness and its remedies against numpy written from arXiv 2605.06240."""

import numpy as np
import pytest
import torch

from forwardonly.rules import Cumulative
from forwardonly.rules.base import BlockPosition, PeerGoodness

DEPTH, OWN, BATCH, BETA = 4, 2, 9, 4.0
REMEDIES = ["none", "per-block", "gated", "depth-scaled", "mgc"]


def softplus(z):
    return np.log1p(np.exp(-np.abs(z))) + np.maximum(z, 0)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


@pytest.fixture
def goodness():
    """Goodness of the blocks up to the one that learns, on both streams: (2, 3, B); margins of both signs."""
    return np.random.default_rng(0).gamma(1.0, 0.3, size=(2, OWN + 1, BATCH))


def block(remedy, **options):
    return Cumulative(classes=10, remedy=remedy, **options).for_block((5,), BlockPosition(OWN, DEPTH))


def evaluated(rule, goodness):
    """The loss and its gradient towards the margin of each example, (B,)."""
    peers = PeerGoodness(*(torch.tensor(stream[:OWN]) for stream in goodness))
    streams = [torch.tensor(stream[OWN], requires_grad=True) for stream in goodness]
    loss = rule.loss(*streams, peers)
    loss.backward()
    np.testing.assert_allclose(streams[0].grad, -streams[1].grad, rtol=1e-12)
    return loss.item(), streams[0].grad.numpy()


def reference(remedy, goodness):
    """The same from the paper's equations."""
    m = goodness[0, OWN] - goodness[1, OWN]
    before = goodness[:, :OWN].sum(1)
    prior = before[0] - before[1]
    big = m + 0.7 * prior
    extra = np.zeros(BATCH)
    if remedy == "per-block":
        big = m
    if remedy == "gated":
        big = m + 0.7 * sigmoid(0 - before[0]) * before[0] - 0.7 * sigmoid(0 - before[1]) * before[1]
    if remedy == "depth-scaled":
        w = sigmoid(-BETA * prior)
        extra = 0.25 * (1 + 3 * OWN / (DEPTH - 1)) * w / w.mean()
    if remedy == "mgc":
        extra = np.maximum(0, 1 - sigmoid(-BETA * big) / sigmoid(-BETA * m))
    loss = np.mean(softplus(-BETA * big) + extra * softplus(-BETA * m))
    slope = -BETA * (sigmoid(-BETA * big) + extra * sigmoid(-BETA * m)) / BATCH
    return loss, slope


@pytest.mark.parametrize("remedy", REMEDIES)
def test_loss_and_gradient_are_the_papers(goodness, remedy):
    loss, slope = evaluated(block(remedy), goodness)
    expected_loss, expected_slope = reference(remedy, goodness)
    assert loss == pytest.approx(expected_loss, rel=1e-9)
    np.testing.assert_allclose(slope, expected_slope, rtol=1e-9)


def test_gamma_zero_is_per_block_exactly(goodness):
    assert evaluated(block("none", gamma=0.0), goodness)[0] == evaluated(block("per-block"), goodness)[0]
    assert evaluated(block("gated", gamma=0.0), goodness)[0] == evaluated(block("per-block"), goodness)[0]


def test_the_gate_saturates_to_cumulative_and_to_per_block(goodness):
    wide_open, shut = block("gated", kappa=1e3), block("gated", kappa=-1e3)
    assert evaluated(wide_open, goodness)[0] == pytest.approx(evaluated(block("none"), goodness)[0], rel=1e-12)
    assert evaluated(shut, goodness)[0] == pytest.approx(evaluated(block("per-block"), goodness)[0], rel=1e-12)


def test_correction_gives_back_exactly_the_gradient_that_was_lost(goodness):
    prior = goodness[0, :OWN].sum(0) - goodness[1, :OWN].sum(0)
    _, corrected = evaluated(block("mgc"), goodness)
    _, alone = evaluated(block("per-block"), goodness)
    np.testing.assert_allclose(corrected[prior > 0], alone[prior > 0], rtol=1e-9)
    assert (np.abs(corrected[prior < 0]) > np.abs(alone[prior < 0])).all()  # a block that must make good gains


@pytest.mark.parametrize("remedy", REMEDIES)
def test_the_first_block_learns_by_itself(goodness, remedy):
    rule = Cumulative(classes=10, remedy=remedy).for_block((5,), BlockPosition(0, DEPTH))
    own = [torch.tensor(stream[OWN]) for stream in goodness]
    factor = 1.25 if remedy == "depth-scaled" else 1.0  # lambda_0 = 0.25 with w = 1
    torch.testing.assert_close(rule.loss(*own, None), factor * rule.unaided(*own))


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="gamma must be 0 or more"):
        Cumulative(classes=10, gamma=-0.1)
