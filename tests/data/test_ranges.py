"""Arrays: their range and the axis of their channels are looked at, and what was assumed is said."""

# mypy: allow-untyped-defs, allow-incomplete-defs

import pickle
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import forwardonly as fo
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


def test_bytes_that_are_nearly_black_are_said(tmp_path, rng):
    """Of pictures and of tensors made by hand, whose scale nothing tells: they are taken as they are."""
    for kind in "ab":
        (tmp_path / "masks" / kind).mkdir(parents=True)
        for k in range(20):
            Image.fromarray(rng.integers(0, 2, (6, 6), dtype=np.uint8)).save(tmp_path / f"masks/{kind}/{k}.png")
    train = load(tmp_path / "masks").train
    said = (
        "no pixel is brighter than 1 of 255, so all are nearly black; if 1 is meant to be white, multiply them by 255"
    )
    assert train.notes[1:] == (f"masks: {said}",) and train.images.max() == 1
    net = fo.mlp(train.shape, [4], rule=fo.rules.Projection(classes=2))
    fo.fit(net, train, epochs=1)  # its notes have said it
    for high, warned in ((1, True), (63, True), (64, False), (255, False)):
        images = Images(train.images * high, train.labels, train.classes, "by hand")
        with pytest.warns(fo.training.RunWarning, match=f"brighter than {high} of") if warned else nullcontext():
            run = fo.fit(net, images, epochs=1)
        assert ("notes" in run.result) == warned
    fo.fit(net, Features(train.images.float(), train.labels, train.classes, "features"), epochs=1)


@pytest.mark.parametrize("kind", [Images, Features])
def test_images_by_hand_without_contrast_do_not_train(kind):
    pixels = torch.full((12, 1, 4, 4), 3).to(kind.dtype)
    alike = kind(pixels, torch.arange(12) % 2, ("a", "b"), "by hand")
    net = fo.mlp(alike.shape, [4], rule=fo.rules.Projection(classes=2))
    with pytest.raises(ValueError, match=r"by hand: all 12 images for training are alike \(every pixel is 3\)"):
        fo.fit(net, alike, epochs=1)
    pixels[-1, 0, 0, 0] = 4
    fo.fit(net, kind(pixels * 20, torch.arange(12) % 2, ("a", "b"), "by hand"), epochs=1)
    with pytest.raises(ValueError, match=r"alike \(pixels from 0 to 60\)"):
        pixels[:] = torch.arange(16).view(4, 4).to(kind.dtype) * 4
        fo.fit(net, kind(pixels, torch.arange(12) % 2, ("a", "b"), "by hand"), epochs=1)


def test_a_set_is_shown_on_one_line(rng):
    images = Images(torch.zeros(1200, 3, 32, 32, dtype=torch.uint8), torch.zeros(1200).long(), ("a", "b"), "toy")
    assert repr(images) == "<Images 'toy': 1,200 of 3 x 32 x 32 in 2 classes, on cpu>"
    assert repr(load("digits", validation=10)) == (
        "Splits(train=<Images 'digits': 1,428 of 1 x 8 x 8 in 10 classes, on cpu>, "
        "validation=<Images 'digits': 10 of 1 x 8 x 8 in 10 classes, on cpu>, "
        "test=<Images 'digits': 359 of 1 x 8 x 8 in 10 classes, on cpu>)"
    )


@pytest.mark.parametrize(
    ("option", "value"),
    [("validation", 0.1), ("validation", -1), ("validation", "3"), ("seed", 1.5), ("seed", -1), ("image_size", 8.0)],
)
def test_numbers_that_load_takes_are_whole(option, value):
    with pytest.raises(ValueError, match=f"{option} must be (a whole number|at least 0), not "):
        load("digits", **{option: value})


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
