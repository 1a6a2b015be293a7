"""Images, and the split that keeps classes in balance."""

# mypy: allow-untyped-defs, allow-incomplete-defs

import numpy as np
import pytest
import torch

from forwardonly.data import Images, hold_out


def make(labels, classes=3):
    labels = torch.as_tensor(labels)
    images = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
    return Images(images, labels, tuple("abc"[:classes]), "toy")


def test_shape_length_subset_and_device():
    images = make([0, 1, 2, 1])
    assert images.shape == (1, 2, 2) and len(images) == 4
    part = images.subset(torch.tensor([3, 0]))
    assert part.labels.tolist() == [1, 0] and part.images[:, 0, 0, 0].tolist() == [3, 0]
    assert images.to("cpu").images.device.type == "cpu"


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (torch.zeros(2, 1, 2, 2), torch.zeros(2).long(), "must be uint8"),
        (torch.zeros(2, 2, 2, dtype=torch.uint8), torch.zeros(2).long(), "must be uint8 of shape"),
        (torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.zeros(3).long(), "labels must be int64"),
        (torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.zeros(2), "labels must be int64"),
        (torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 3]), "label 3 is out of range"),
        (torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, -1]), "label -1 is out of range"),
    ],
)
def test_tensors_that_do_not_fit_are_named(images, labels, said):
    with pytest.raises(ValueError, match=said):
        Images(images, labels, ("a", "b", "c"), "toy")


@pytest.mark.parametrize("labels", [[0, 2], (0, 2), list(np.array([0, 2])), []], ids=str)
def test_labels_may_be_a_list(labels):
    made = Images(torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8), labels, ("a", "b", "c"))
    assert made.labels.dtype == torch.int64 and made.labels.tolist() == list(labels)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["a", "b"], "labels in a list must be whole numbers"),
        ([0.0, 1.0], "labels in a list must be whole numbers"),
        ([[0], [1, 2]], "labels in a list must be whole numbers"),
        ([True, False], "labels in a list must be whole numbers"),
        ([0, 2**70], "labels must be numbers"),
        ([0, 3], "label 3 is out of range"),
        ([0], "labels must be int64 of shape"),
        ({0: 1}, "labels must be a tensor, an array or a list, not dict"),
        ("ab", "labels must be a tensor, an array or a list, not 'ab'"),
    ],
)
def test_what_is_no_list_of_labels_is_refused(labels, said):
    with pytest.raises(ValueError, match=said):
        Images(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), labels, ("a", "b", "c"))


def test_held_out_images_are_balanced_disjoint_complete_and_repeatable():
    split = make([0] * 60 + [1] * 30 + [2] * 10)
    kept, held = hold_out(split, 20, seed=1)
    assert held.labels.bincount().tolist() == [12, 6, 2]
    together = torch.cat([kept.images, held.images])[:, 0, 0, 0]
    assert sorted(together.tolist()) == list(range(100))
    assert torch.equal(held.images, hold_out(split, 20, seed=1)[1].images)
    assert not torch.equal(held.images, hold_out(split, 20, seed=2)[1].images)


@pytest.mark.parametrize("count", range(11))
def test_exactly_as_many_as_asked_and_each_class_keeps_one(count):
    kept, held = hold_out(make([0] * 10 + [1] * 2 + [2]), count, seed=0)
    assert len(held) == count and kept.labels.bincount(minlength=3).min() >= 1


@pytest.mark.parametrize(
    ("count", "said"),
    [(11, "cannot hold out"), (1000, "cannot hold out"), (-1, "at least 0, not -1"), (0.1, "whole number, not 0.1")],
)
def test_what_cannot_be_held_out_is_refused(count, said):
    with pytest.raises(ValueError, match=said):
        hold_out(make([0] * 10 + [1] * 2 + [2]), count, seed=0)
