"""Labels in the input, and wrong labels."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from forwardonly import labels as code


def test_embedding_overwrites_the_first_features_only():
    images = torch.rand(3, 1, 4, 4)
    embedded = code.embed_labels(images, 5, 2.5, "first", torch.tensor([0, 4, 2]))
    flat = embedded.flatten(1)
    assert embedded.shape == images.shape
    assert flat[:, :5].tolist() == [[2.5, 0, 0, 0, 0], [0, 0, 0, 0, 2.5], [0, 0, 2.5, 0, 0]]
    assert torch.equal(flat[:, 5:], images.flatten(1)[:, 5:])


def test_a_neutral_label_is_the_same_for_every_class():
    flat = code.embed_neutral(torch.rand(3, 1, 4, 4), 5, 2.0, "first").flatten(1)
    assert torch.equal(flat[:, :5], torch.full((3, 5), 0.2))


def test_an_image_too_small_for_the_labels_is_refused():
    with pytest.raises(ValueError, match="4 features: too few to carry the label of 10 classes"):
        code.embed_labels(torch.rand(1, 1, 2, 2), 10, 1.0, "first", torch.tensor([3]))


@pytest.mark.parametrize(("classes", "shape"), [(10, (1, 9, 8)), (10, (3, 32, 32)), (100, (3, 32, 32)), (2, (1, 3, 3))])
def test_labels_as_waves_are_orthogonal_and_reach_every_corner(classes, shape):
    device = torch.device("cpu")
    waves = code.waves(classes, shape, device)
    scalar = waves @ waves.T / waves[0].numel()
    torch.testing.assert_close(scalar, torch.eye(classes) / 2, atol=1e-5, rtol=0)
    assert torch.equal(waves.view(classes, *shape)[:, 0], waves.view(classes, *shape)[:, -1])
    images = torch.rand(classes, *shape)
    carried = code.embed_labels(images, classes, 0.5, "everywhere", torch.arange(classes)) - images
    torch.testing.assert_close(carried, 0.5 * waves.view(-1, *shape))
    with pytest.raises(ValueError, match="8 x 8 pixels is too small for the waves of 100 classes"):
        code.waves(100, (1, 8, 8), device)


@given(classes=st.integers(2, 200), seed=st.integers(0, 2**31))
def test_a_wrong_label_is_a_class_and_never_the_right_one(classes, seed):
    generator = torch.Generator().manual_seed(seed)
    right = torch.randint(0, classes, (50,), generator=generator)
    logits = 100 * torch.randn(50, classes, generator=generator)
    for wrong in (code.wrong_labels(right, classes, generator), code.hard_labels(right, logits, generator)):
        assert (wrong != right).all()
        assert ((wrong >= 0) & (wrong < classes)).all()


def test_uniform_wrong_labels_come_equally_often():
    right = torch.zeros(9000, dtype=torch.long)
    counts = torch.bincount(code.wrong_labels(right, 10, torch.Generator().manual_seed(0)), minlength=10)
    assert counts[0] == 0
    assert (counts[1:] - 1000).abs().max() < 150  # 5 standard deviations


def test_hard_wrong_labels_follow_the_networks_belief():
    right = torch.zeros(9000, dtype=torch.long)
    logits = torch.tensor([9.0, 2.0, 1.0, 0.0]).expand(9000, 4)
    drawn = torch.bincount(code.hard_labels(right, logits, torch.Generator().manual_seed(0)), minlength=4)
    expected = torch.softmax(torch.tensor([2.0, 1.0, 0.0]), 0) * 9000
    assert drawn[0] == 0
    assert (drawn[1:] - expected).abs().max() < 250
