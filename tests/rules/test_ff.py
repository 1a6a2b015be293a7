"""Forward-Forward against numpy written from the equations of arXiv 2212.13345 and 2303.08418."""

import numpy as np
import pytest
import torch

from forwardonly.rules import ForwardForward
from forwardonly.rules.base import unit_rms


def softplus(z):
    return np.log1p(np.exp(-np.abs(z))) + np.maximum(z, 0)


@pytest.fixture
def streams():
    generator = np.random.default_rng(0)
    return generator.normal(size=(6, 20)) * 2, generator.normal(size=(6, 20)) * 2


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("sharpness", [1.0, 5.0])
def test_threshold_loss_is_the_papers(streams, reduction, sharpness):
    positive, negative = streams
    reduce = np.mean if reduction == "mean" else np.sum
    g_pos, g_neg = reduce(positive**2, axis=1), reduce(negative**2, axis=1)
    expected = np.mean(softplus(sharpness * (3.0 - g_pos)) + softplus(sharpness * (g_neg - 3.0))) / sharpness
    rule = ForwardForward(classes=10, threshold=3.0, reduction=reduction, sharpness=sharpness)
    loss, told = rule.local_loss(torch.tensor(np.concatenate(streams), dtype=torch.float32), torch.zeros(6), None)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(told.positive, g_pos, rtol=1e-5)
    np.testing.assert_allclose(told.negative, g_neg, rtol=1e-5)


def test_margin_loss_is_symbas(streams):
    positive, negative = streams
    margin = np.mean(positive**2, axis=1) - np.mean(negative**2, axis=1)
    expected = np.mean(softplus(-4.0 * margin))
    rule = ForwardForward(classes=10, objective="margin", beta=4.0)
    loss, _ = rule.local_loss(torch.tensor(np.concatenate(streams), dtype=torch.float32), torch.zeros(6), None)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_gradient_of_the_loss_is_the_closed_form(streams):
    activation = torch.tensor(np.concatenate(streams), requires_grad=True)
    rule = ForwardForward(classes=10, sharpness=2.0)
    rule.local_loss(activation, torch.zeros(6), None)[0].backward()
    goodness = (np.concatenate(streams) ** 2).mean(1, keepdims=True)
    sign = np.repeat([[-1.0], [1.0]], 6, axis=0)
    pull = sign / (1 + np.exp(-2.0 * sign * (goodness - 2.0)))  # d softplus
    expected = pull * 2 * np.concatenate(streams) / 20 / 6
    np.testing.assert_allclose(activation.grad, expected, rtol=1e-5)


def test_only_the_direction_passes_on(streams):
    activation = torch.tensor(streams[0], dtype=torch.float32)
    passed = unit_rms(activation)
    np.testing.assert_allclose(passed.square().mean(1), np.ones(6), rtol=1e-4)
    torch.testing.assert_close(passed, unit_rms(7 * activation), rtol=1e-4, atol=1e-4)
    assert torch.isfinite(unit_rms(torch.zeros(2, 3))).all()


@pytest.mark.parametrize("option", ["threshold", "sharpness", "beta"])
def test_options_that_make_no_sense_are_refused(option):
    with pytest.raises(ValueError, match=f"{option} must be positive"):
        ForwardForward(classes=10, **{option: 0.0})


@pytest.mark.parametrize(
    ("negatives", "predict", "needed"),
    [
        ("hard", "goodness", True),
        ("uniform", "goodness", False),
        ("uniform", "softmax", True),
        ("fixed", "goodness", False),
        ("fixed", "softmax", True),
    ],
)
def test_a_label_classifier_is_for_hard_negatives_and_softmax_prediction(negatives, predict, needed):
    assert ForwardForward(classes=10, negatives=negatives, predict=predict).needs_label_classifier == needed


def test_a_word_that_an_option_does_not_know_is_one_clear_sentence():
    with pytest.raises(ValueError, match="reduction must be one of mean, sum, not 'median'"):
        ForwardForward(classes=10, reduction="median")
