"""Arrays: their range and the axis of their channels are looked at, and what was assumed is said."""

# mypy: allow-untyped-defs, allow-incomplete-defs

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from forwardonly.data import Features, Images, load
from forwardonly.data.formats import read_cifar
from forwardonly.data.pickles import read_pickle

Y = np.arange(40) % 2
TEN = tuple("0123456789")


def saved(tmp_path, **arrays):
    path = tmp_path / "set.npz"
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((64, 64, 13), 3), ((13, 64, 64), 1), ((32, 32, 2), 3), ((2, 32, 32), 1), ((4, 4, 3), 3), ((3, 4, 4), 1),
        ((28, 28, 1), 3), ((1, 28, 28), 1), ((30, 40, 3), 3), ((3, 30, 40), 1), ((1, 1, 9), 1), ((1, 9, 1), 1),
        ((16, 1, 1), 3), ((1, 30, 20), 1), ((64, 64, 4), 3), ((4, 64, 64), 1),
    ],
)  # fmt: skip
def test_the_axis_of_the_channels_is_told_by_the_shape(tmp_path, rng, shape, axis):
    x = rng.integers(0, 256, (40, *shape), dtype=np.uint8)
    train = load(saved(tmp_path, x=x, y=Y, x_test=x, y_test=Y)).train
    assert np.array_equal(train.images.numpy(), x if axis == 1 else x.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("shape", [(4, 32, 3), (3, 3, 8), (8, 3, 3), (16, 8, 9), (8, 8, 8), (3, 3, 3), (4, 9, 1)])
def test_an_axis_that_cannot_be_told_is_asked_for(tmp_path, rng, shape):
    x = rng.integers(0, 256, (40, *shape), dtype=np.uint8)
    front, middle, back = shape
    said = f"{front} channels of {middle} x {back} or {back} channels of {front} x {middle}: save channel_axis=1 or"
    with pytest.raises(ValueError, match=said):
        load(saved(tmp_path, x=x, y=Y))
    for axis, size in ((1, shape), (3, (back, front, middle))):
        assert load(saved(tmp_path, x=x, y=Y, channel_axis=axis)).train.shape == size
    with pytest.raises(ValueError, match="channel_axis must be 1, for"):
        load(saved(tmp_path, x=x, y=Y, channel_axis=2))


@pytest.mark.parametrize(("high", "white"), [(1, 1), (2, 2), (3, 4), (15, 16), (16, 16), (40, 64), (63, 64)])
def test_small_whole_numbers_are_spread_and_said(tmp_path, rng, high, white):
    x = rng.integers(0, high + 1, (40, 8, 8))
    x[:, 0, 0], x[:, 0, 1] = high, 0
    train, _, test = load(saved(tmp_path, x=x, y=Y, x_test=np.minimum(x, 1), y_test=Y))
    spread = np.rint(x * 255 / white)
    assert np.array_equal(train.images[:, 0].numpy(), spread)
    # the test part may hold smaller numbers alone: it has the scale of its file
    assert np.array_equal(test.images[:, 0].numpy(), np.rint(np.minimum(x, 1) * 255 / white))
    file = tmp_path / "set.npz"
    said = f"{file}: x holds whole numbers 0 to {high}, spread over 0 to 255 so that {white} is white"
    assert train.notes == (said,)


def test_truth_values_floats_and_whole_numbers_are_one_set(tmp_path, rng):
    x = rng.integers(0, 2, (40, 8, 8), dtype=np.uint8)
    masks = [load(saved(tmp_path, x=each, y=Y)).train.images for each in (x, x > 0, x.astype(float), x * 255)]
    assert all(torch.equal(masks[0], other) for other in masks[1:])


def test_scikit_learns_digits_as_whole_numbers_are_the_digits(tmp_path):
    x, y = load_digits(return_X_y=True)
    own, known = load(saved(tmp_path, x=x.reshape(-1, 8, 8).astype(np.int64), y=y)), load("digits")
    assert torch.equal(own.train.images, known.train.images) and torch.equal(own.test.images, known.test.images)


def test_other_ranges_are_not_spoken_of(tmp_path, rng):
    dim = rng.integers(0, 65, (40, 8, 8))  # a quarter of the range: a dark set, not another scale
    dim[0, 0, 0] = 64
    for x in (rng.integers(0, 256, (40, 8, 8)), dim, rng.random((40, 8, 8)), rng.random((40, 8, 8)) > 0.5):
        assert load(saved(tmp_path, x=x, y=Y)).train.notes == ()
    assert np.array_equal(load(saved(tmp_path, x=dim, y=Y, x_test=dim, y_test=Y)).train.images[:, 0].numpy(), dim)


def test_floats_a_hair_outside_are_taken_and_others_shown(tmp_path, rng):
    x = rng.random((40, 8, 8))
    x[0, 0, 0], x[0, 0, 1] = np.nextafter(1, 2), -1e-9
    found = load(saved(tmp_path, x=x, y=Y, x_test=x, y_test=Y)).train
    assert found.images[0, 0, 0, :2].tolist() == [255, 0]
    assert np.array_equal(found.images[:, 0].numpy(), np.rint(x.astype(np.float32) * 255).clip(0, 255))
    for off, said in ((1.01, "to 1.01,"), (-0.25, "from -0.25 to"), (255.0, "to 255,")):
        x[0, 0, 0] = off
        with pytest.raises(ValueError, match=rf"x holds floats .*{said}.* must be 0 to 1"):
            load(saved(tmp_path, x=x, y=Y))


def test_arrays_without_contrast(tmp_path):
    with pytest.raises(ValueError, match=r"set: all 32 images for training are alike \(every pixel is 70\)"):
        load(saved(tmp_path, x=np.full((40, 4, 4), 70), y=Y))
    x = np.zeros((4000, 4, 4), np.uint8)
    x[-1] = 1
    assert len(load(saved(tmp_path, x=x, y=np.arange(4000) % 2, x_test=x, y_test=np.arange(4000) % 2)).train) == 4000


# Images of numpy arrays


def test_images_take_numpy_arrays(rng):
    x, y = rng.integers(0, 256, (6, 1, 4, 4), dtype=np.uint8), np.array([0, 1, 2, 0, 1, 2], np.int32)
    images = Images(x, y, ("a", "b", "c"), "toy")  # type: ignore[arg-type]
    assert images.images.dtype == torch.uint8 and np.array_equal(images.images.numpy(), x)
    assert images.labels.dtype == torch.int64 and images.labels.tolist() == y.tolist()
    x.flags.writeable = False
    assert np.array_equal(Images(x[:, :, ::-1], y, ("a", "b", "c"), "toy").images.numpy(), x[:, :, ::-1])  # type: ignore[arg-type]
    assert Features(x.astype(np.float32), y, ("a", "b", "c"), "toy").images.dtype == torch.float32  # type: ignore[arg-type]
    for wrong, said in ((x.astype(float), "must be uint8"), (x[:, 0], "of shape"), (x.astype(object), "not object")):
        with pytest.raises(ValueError, match=said):
            Images(wrong, y, ("a", "b", "c"), "toy")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="labels must be int64"):
        Images(x, y * 0.5, ("a", "b", "c"), "toy")  # type: ignore[arg-type]


# Pickles of Python 3.14 and of numpy's labels


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("order", ["C", "F"])
def test_cifar_saved_again_in_every_protocol(tmp_path, rng, protocol, order):
    pixels = np.asarray(rng.integers(0, 256, (3, 3072), dtype=np.uint8), order=order)
    path = tmp_path / "batch"
    for labels in ([1, 0, 2], np.array([1, 0, 2]), np.array([1, 0, 2], ">i4"), [np.int64(1), np.int64(0), np.uint8(2)]):
        path.write_bytes(pickle.dumps({"data": pixels, "labels": labels}, protocol))
        images = read_cifar([path], "labels", TEN, "toy")
        assert np.array_equal(images.images.flatten(1).numpy(), pixels) and images.labels.tolist() == [1, 0, 2]


@pytest.mark.parametrize("protocol", range(6))
def test_cifar_of_other_arrays(tmp_path, protocol):
    path = tmp_path / "batch"
    for data, labels, said in (
        (np.zeros((2, 3072), np.int16), [0, 1], "no 'data' of 3072 bytes"),
        (np.zeros((2, 3072)), [0, 1], "not of unsigned bytes or whole numbers"),
        (np.zeros((2, 3072), np.uint8), np.array([0, 10]), "from 0 to 9"),
        (np.zeros((2, 3072), np.uint8), np.array([[0], [1]]), "from 0 to 9"),
    ):
        path.write_bytes(pickle.dumps({"data": data, "labels": labels}, protocol))
        with pytest.raises(ValueError, match=said):
            read_cifar([path], "labels", TEN, "toy")


def test_protocol_5_is_not_unpickled_either(tmp_path):
    class Malice:
        def __reduce__(self):
            return Path.touch, (tmp_path / "was-run",)

    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps({"data": Malice()}, 5))
    with pytest.raises(ValueError, match=r"refused without running|has no place"):
        read_pickle(path)
    sound = pickle.dumps({"data": np.zeros(40, np.uint8)}, 5)
    assert b"K\x28\x85" in sound
    path.write_bytes(sound.replace(b"K\x28\x85", b"K\x29\x85"))
    with pytest.raises(ValueError, match="which its shape does not fit"):
        read_pickle(path)
    assert not (tmp_path / "was-run").exists()
