"""Self-contrastive Forward-Forward against numpy written from arXiv 2409.11593."""

import numpy as np
import pytest
import torch

import forwardonly as fo


def softplus(z):
    return np.log1p(np.exp(-np.abs(z))) + np.maximum(z, 0)


def normalised(images):
    flat = images.numpy().reshape(len(images), -1).astype(np.float64)
    flat = flat - flat.mean(1, keepdims=True)
    return flat / np.sqrt((flat**2).mean(1, keepdims=True) + 1e-6)


@pytest.fixture
def images():
    return torch.rand(6, 1, 5, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def turned():
    return torch.rand(6, 1, 5, 4, generator=torch.Generator().manual_seed(1))


def test_positive_is_an_image_beside_itself_and_negative_beside_another(images):
    positive, negative = fo.rules.SelfContrastive().pair(images, images, torch.Generator().manual_seed(0))
    x = normalised(images)
    np.testing.assert_allclose(positive.flatten(1), x, rtol=1e-4, atol=1e-5)
    partners = 2 * negative.flatten(1).numpy() - x
    distances = ((partners[:, None] - x[None]) ** 2).mean(2)
    assert distances.min(1) == pytest.approx(np.zeros(6), abs=1e-6)
    assert all(distances.argmin(1) != np.arange(6))


def test_two_views_stand_beside_each_other(images, turned):
    rule = fo.rules.SelfContrastive(positives="views")
    assert (rule.views, fo.rules.SelfContrastive().views) == (2, 1)
    positive, negative = rule.pair(images, turned, torch.Generator().manual_seed(0))
    one, other = normalised(images), normalised(turned)
    np.testing.assert_allclose(positive.flatten(1), (one + other) / 2, rtol=1e-4, atol=1e-5)
    partners = 2 * negative.flatten(1).numpy() - one
    distances = ((partners[:, None] - other[None]) ** 2).mean(2)
    assert distances.min(1) == pytest.approx(np.zeros(6), abs=1e-6)


def test_both_halves_meet_the_same_weights(images, turned):
    """[a, b] through W beside W, as in the paper, has twice the activation of ours: four times the goodness."""
    generator = np.random.default_rng(0)
    weights, bias = generator.normal(size=(20, 7)), generator.normal(size=7)
    one, other = normalised(images), normalised(turned)
    papers = np.maximum(np.hstack([one, other]) @ np.vstack([weights, weights]) + 2 * bias, 0)
    positive, _ = fo.rules.SelfContrastive().pair(images, turned, torch.Generator().manual_seed(0))
    ours = np.maximum(positive.flatten(1).numpy() @ weights + bias, 0)
    np.testing.assert_allclose(4 * (ours**2).mean(1), (papers**2).mean(1), rtol=1e-4)


def test_loss_has_a_threshold_a_stream_and_a_penalty():
    streams = np.random.default_rng(0).normal(size=(2, 6, 20)) * 1.5
    positive, negative = (streams**2).mean(2)
    rule = fo.rules.SelfContrastive(threshold=3.0, negative_threshold=1.5, sharpness=2.0, penalty=0.1)
    activation = torch.tensor(streams.reshape(12, 20), dtype=torch.float32)
    loss, _ = rule.local_loss(activation, torch.zeros(6), None)
    terms = softplus(2 * (3 - positive)) / 2 + softplus(2 * (negative - 1.5)) / 2 + 0.1 * positive
    assert loss.item() == pytest.approx(terms.mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"negative_threshold": 0.0}, "negative_threshold must be positive"),
        ({"penalty": -0.1}, "penalty must be 0 or more"),
        ({"positives": "pairs"}, "positives must be one of same, views, not 'pairs'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        fo.rules.SelfContrastive(**options)
