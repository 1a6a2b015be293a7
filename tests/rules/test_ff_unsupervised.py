"""Forward-Forward without labels against numpy written from arXiv 2212.13345, section 3.2."""

import numpy as np
import pytest
import torch

import forwardonly as fo
from forwardonly.rules.ff_unsupervised import blurred, hybrids, smooth_masks
from forwardonly.rules.unlabelled import others


def softplus(z):
    return np.log1p(np.exp(-np.abs(z))) + np.maximum(z, 0)


def test_a_blur_is_the_papers_filter_in_both_directions():
    values = np.random.default_rng(0).random((2, 7, 5))
    kernel = np.outer([1, 2, 1], [1, 2, 1]) / 16
    expected = values
    for _ in range(3):
        padded = np.pad(expected, ((0, 0), (1, 1), (1, 1)), mode="wrap")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        expected = (windows * kernel).sum((-2, -1))
    np.testing.assert_allclose(blurred(torch.tensor(values), 3), expected, rtol=1e-12)


def test_masks_are_half_ones_and_the_more_they_are_blurred_the_larger_are_their_regions():
    changes = []
    for times in (0, 3, 12):
        masks = smooth_masks(200, 28, 28, times, torch.Generator().manual_seed(0)).float()
        assert masks.shape == (200, 1, 28, 28)
        assert masks.mean() == pytest.approx(0.5, abs=0.03)
        changes.append(float((masks.diff(dim=3) != 0).float().mean()))
    assert changes[0] == pytest.approx(0.5, abs=0.01)  # of neighbours that differ, without a blur
    assert changes[2] < changes[1] / 1.5 < changes[0] / 3


def test_a_hybrid_has_every_pixel_of_one_of_two_images():
    generator = torch.Generator().manual_seed(0)
    images, partners = torch.rand(2, 5, 3, 8, 8, generator=generator)
    masks = smooth_masks(5, 8, 8, 2, generator)
    mixed = hybrids(images, partners, masks)
    expected = masks.numpy() * images.numpy() + ~masks.numpy() * partners.numpy()
    np.testing.assert_array_equal(mixed, expected)


def test_another_image_is_never_the_image_itself_and_each_other_comes_as_often():
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([others(5, generator) for _ in range(4000)])
    assert not bool((drawn == torch.arange(5)).any())
    counts = torch.bincount(drawn[:, 0], minlength=5)
    assert counts[0] == 0 and bool(((counts[1:] - 1000).abs() < 130).all())  # more than four deviations


def test_streams_are_images_and_hybrids_of_unit_mean_square():
    rule = fo.rules.ForwardForwardUnsupervised(blurs=2)
    images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    positive, negative = rule.pair(images, images, torch.Generator().manual_seed(1))
    flat = images.flatten(1).numpy()
    np.testing.assert_allclose(positive.flatten(1), flat / np.sqrt((flat**2).mean(1, keepdims=True) + 1e-6), rtol=1e-5)
    np.testing.assert_allclose(negative.square().mean((1, 2, 3)), np.ones(6), rtol=1e-4)
    assert not torch.allclose(negative, positive)


@pytest.mark.parametrize("sharpness", [1.0, 10.0])
def test_the_loss_is_forward_forwards(sharpness):
    generator = np.random.default_rng(0)
    streams = generator.normal(size=(2, 6, 20)) * 2
    goodness = (streams**2).mean(2)
    rule = fo.rules.ForwardForwardUnsupervised(threshold=3.0, sharpness=sharpness)
    activation = torch.tensor(streams.reshape(12, 20), dtype=torch.float32)
    loss, told = rule.local_loss(activation, torch.zeros(6), None)
    expected = np.mean(softplus(sharpness * (3 - goodness[0])) + softplus(sharpness * (goodness[1] - 3))) / sharpness
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(told.negative, goodness[1], rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"threshold": 0.0}, "threshold must be positive"), ({"blurs": -1}, "blurs must be 0 or more, not -1")],
)
def test_options_that_make_no_sense_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        fo.rules.ForwardForwardUnsupervised(**options)
