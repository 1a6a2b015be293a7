""".npz files: read correctly, and refused in one sentence when anything is wrong."""

# mypy: allow-untyped-defs, allow-incomplete-defs

import os
import struct
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given

from forwardonly.data import load
from forwardonly.data.formats import read_npz

from .malformed import FUZZ, Malice, damaged, must_only_raise_value_error, one_sentence


def save(tmp_path, **arrays):
    path = tmp_path / "set.npz"
    np.savez(path, **arrays)
    return path


Y = np.arange(20) % 2


@pytest.mark.parametrize(
    ("shape", "out"),
    [
        ((20, 7), (1, 1, 7)),
        ((20, 6, 5), (1, 6, 5)),
        ((20, 3, 6, 5), (3, 6, 5)),
        ((20, 6, 5, 3), (3, 6, 5)),
        ((20, 16, 8, 8), (16, 8, 8)),
    ],
)
def test_npz_layouts(tmp_path, rng, shape, out):
    train, validation, test = load(save(tmp_path, x=rng.integers(0, 256, shape), y=Y), validation=4)
    assert validation is not None
    assert train.shape == out and (len(train), len(validation), len(test)) == (12, 4, 4)
    assert train.name == "set" and train.classes == ("0", "1")


def test_npz_values_scale_and_the_test_split_is_fixed(tmp_path):
    x = np.linspace(0, 1, 20).reshape(20, 1, 1)
    for dtype in (np.float16, np.float32, np.float64):
        train, _, test = load(str(save(tmp_path, x=x.astype(dtype), y=Y)), seed=int(dtype == np.float32))
        assert sorted([*train.images.flatten().tolist(), *test.images.flatten().tolist()])[-1] == 255
        assert test.labels.bincount().tolist() == [2, 2]
    assert torch.equal(test.images, load(save(tmp_path, x=x, y=Y), seed=7).test.images)
    own = load(save(tmp_path, x=x, y=Y[:, None].astype(np.uint8), x_test=x[:3] > 0.01, y_test=Y[:3]))
    assert len(own.train) == 20 and own.test.images.flatten().tolist() == [0, 255, 255]


X = np.zeros((20, 4, 4), np.uint8)
NAN = np.where(np.arange(20)[:, None, None] == 17, np.nan, X.astype(float))


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": X}, "no array 'y'"),
        ({"x": X, "y": Y, "y_test": Y}, "no array 'x_test'"),
        ({"x": NAN, "y": Y}, "NaN or infinity in image 17"),
        ({"x": X + 1.5, "y": Y}, "floats from 1.5 to 1.5"),
        ({"x": X.astype(int) - 1, "y": Y}, "numbers from -1 to -1"),
        ({"x": X.astype(int) + 256, "y": Y}, "must be 0 to 255"),
        ({"x": X, "y": Y - 1}, "label -1, labels count from 0"),
        ({"x": X, "y": Y * 0.5}, "labels must be whole numbers"),
        ({"x": X, "y": Y * 2}, "class 1 has no examples"),
        ({"x": X, "y": Y * 0}, "at least two classes"),
        ({"x": X, "y": Y * 10**9}, "class 1 has no examples"),
        ({"x": X, "y": Y[:19]}, "20 images but 19 labels"),
        ({"x": X[:0], "y": Y[:0]}, "class 0 has no examples"),
        ({"x": X[0, 0], "y": Y}, "it must be"),
        ({"x": X, "y": X}, "one class number an image"),
        ({"x": X, "y": Y, "x_test": X[:, :2], "y_test": Y}, "they must agree"),
        ({"x": X, "y": Y, "x_test": X, "y_test": Y + 1}, "label 2 is out of range"),
        ({"x": X, "y": np.array(list("ab" * 10))}, "not numbers"),
    ],
)
def test_bad_arrays(tmp_path, arrays, said):
    with pytest.raises(ValueError, match=said) as caught:
        load(save(tmp_path, **arrays))
    one_sentence(caught)


def test_npz_with_objects_is_refused_and_not_run(tmp_path):
    mark = tmp_path / "was-run"
    path = save(tmp_path, x=np.array([Malice(os.system, f"touch {mark}")], dtype=object), y=Y)
    with pytest.raises(ValueError, match="holds object, not numbers"):
        read_npz(path)
    assert not mark.exists()


def npy_with_header(shape):
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


def test_npz_that_promises_what_it_has_not(tmp_path):
    path = tmp_path / "x.npz"
    for shape in ((10**12, 28, 28), (2**63, 2**63), (-1, 4), (3, 4)):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", npy_with_header(shape))
        with pytest.raises(ValueError, match=r"promises|negative") as caught:
            read_npz(path)
        one_sentence(caught)


def test_npz_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("forwardonly.data.formats.GIB", 1 << 20)
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", npy_with_header((2000, 50, 50)) + bytes(5_000_000))
    with pytest.raises(ValueError, match="refused"):
        read_npz(path)


@pytest.mark.parametrize("data", [b"", b"PK", b"not a zip at all"])
def test_what_is_no_zip(tmp_path, data):
    path = tmp_path / "x.npz"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"not an .npz file"):
        load(path)


def test_truncated_npz(tmp_path):
    path = save(tmp_path, x=X, y=Y)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged"):
        load(path)


def small_npz(compressed, folder="/tmp"):
    import io

    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, x=X[:4, :1], y=Y[:4])
    return buffer.getvalue()


@FUZZ
@given(data=damaged(small_npz(False)) | damaged(small_npz(True)))
def test_fuzzed_npz(tmp_path, data):
    must_only_raise_value_error(read_npz, tmp_path / "x.npz", data)


@FUZZ
@given(data=damaged(npy_with_header((4, 2, 2)) + bytes(16)))
def test_fuzzed_npy_in_a_sound_zip(tmp_path, data):
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", data)
        archive.writestr("y.npy", npy_with_header((4,)) + bytes([0, 1, 0, 1]))
    must_only_raise_value_error(read_npz, path, path.read_bytes())
