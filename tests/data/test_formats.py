"""idx, CIFAR pickles and the real sets: read correctly, and refused in one sentence when anything is wrong."""

# mypy: allow-untyped-defs, allow-incomplete-defs

import gzip
import importlib.util
import os
import pickle
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from forwardonly.data import load, load_test
from forwardonly.data.formats import read_cifar, read_idx
from forwardonly.data.pickles import read_pickle

from .conftest import idx_bytes, python2_batch
from .malformed import FUZZ, Malice, damaged, must_only_raise_value_error, one_sentence

TEN = tuple("0123456789")


# idx


def packed(content: bytes) -> bytes:
    """Gzipped without the time, which would give a test another name in each process that collects it."""
    return gzip.compress(content, mtime=0)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx_plain_and_gzipped(tmp_path, rng, pack):
    array = rng.integers(0, 256, (5, 4, 3), dtype=np.uint8)
    path = tmp_path / "x"
    path.write_bytes(pack(idx_bytes(array)))
    assert np.array_equal(read_idx(path, 3), array)


HUGE = struct.pack(">BBBBIII", 0, 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "cut short"),
        (b"\0\0\x08", "cut short"),
        (b"PNG nonsense and more of it", "begins with 50 4e"),
        (idx_bytes(np.zeros(9)) * 3, "begins with 00 00 08 01"),
        (idx_bytes(np.zeros((2, 3, 3)))[:-1], "promises 34 bytes, there are 33"),
        (idx_bytes(np.zeros((2, 3, 3))) + b"x", "promises 34 bytes, there are 35"),
        (packed(idx_bytes(np.zeros((2, 3, 3)))[:-1]), "promises 34 bytes, there are 33"),
        (packed(idx_bytes(np.zeros((2, 3, 3))) + b"x"), "promises 34 bytes, there are more"),
        (packed(idx_bytes(np.zeros((2, 3, 3))))[:-3], "cut short"),
        (packed(bytes(range(9)))[:12], "damaged|cut short"),
        (HUGE, "promises"),
        (packed(HUGE), "promises"),
    ],
)
def test_bad_idx(tmp_path, data, said):
    path = tmp_path / "train-images"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=said) as caught:
        read_idx(path, 3)
    assert str(path) in one_sentence(caught)


@FUZZ
@given(data=damaged(idx_bytes(np.arange(24).reshape(2, 3, 4))))
def test_fuzzed_idx(tmp_path, data):
    must_only_raise_value_error(lambda p: read_idx(p, 3), tmp_path / "x", data)


@FUZZ
@given(data=damaged(gzip.compress(idx_bytes(np.arange(24).reshape(2, 3, 4)))))
def test_fuzzed_gzipped_idx(tmp_path, data):
    must_only_raise_value_error(lambda p: read_idx(p, 3), tmp_path / "x", data)


def test_mnist_from_a_folder_and_counts_that_disagree(mnist_root):
    train, validation, test = load("mnist", data_dir=mnist_root, validation=10)
    assert validation is not None
    assert train.shape == (1, 28, 28) and (len(train), len(validation), len(test)) == (30, 10, 20)
    assert validation.labels.bincount().tolist() == [1] * 10
    labels = mnist_root / "MNIST/raw/train-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(idx_bytes(np.arange(39) % 10)))
    with pytest.raises(ValueError, match=r"40 images, .* has 39 labels"):
        load("mnist", data_dir=mnist_root)
    labels.write_bytes(gzip.compress(idx_bytes(np.arange(40) % 11)))
    with pytest.raises(ValueError, match="label 10 is out of range"):
        load("mnist", data_dir=mnist_root)
    labels.write_bytes(gzip.compress(idx_bytes(np.arange(40) % 9)))
    with pytest.raises(ValueError, match="class '9' has no examples"):
        load("mnist", data_dir=mnist_root)


def test_a_part_of_a_known_set_is_not_the_set(mnist_root, cifar_root, known_size):
    known_size("mnist", 60_000, 20)
    said = r"mnist in .* has 40 training images, not 60,000: repair it with `forwardonly data fetch mnist --data-dir"
    with pytest.raises(ValueError, match=said):
        load("mnist", data_dir=mnist_root)
    assert len(load_test("mnist", data_dir=mnist_root)[0]) == 20
    for train, test, part in ((100, 19, "20 test images, not 19"), (99, 20, "100 training images, not 99")):
        known_size("cifar-10", train, test)
        with pytest.raises(ValueError, match=f"cifar-10 in .* has {part}"):
            load("cifar-10", data_dir=cifar_root)
    known_size("mnist", 40, 10_000)
    for loading in (load, load_test):
        with pytest.raises(ValueError, match="has 20 test images, not 10,000"):
            loading("mnist", data_dir=mnist_root)


# CIFAR


def test_cifar_10_from_a_folder(cifar_root):
    train, validation, test = load("cifar-10", data_dir=cifar_root)
    assert train.shape == (3, 32, 32) and (len(train), validation, len(test)) == (100, None, 20)
    assert train.classes == tuple(f"class{n}" for n in range(10))


def test_cifar_100_from_a_folder(tmp_path, rng, known_size):
    known_size("cifar-100", 200, 200)
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for part in ("train", "test"):
        pixels = rng.integers(0, 256, (200, 3072), dtype=np.uint8)
        (folder / part).write_bytes(python2_batch(pixels, [n % 100 for n in range(200)], b"fine_labels"))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"f{n}" for n in range(100)]}, 2))
    train, _, _ = load("cifar-100", data_dir=tmp_path)
    assert len(train.classes) == 100 and torch.equal(train.images.flatten(1)[0], train.images[0].flatten())


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_every_protocol_gives_what_pickle_gives(tmp_path, rng, protocol):
    content = {
        "data": rng.integers(0, 256, (2, 3072), dtype=np.uint8),
        "labels": [0, 300, -5, 70_000, 2**40],
        "pair": ("a", "é", b"\x00\xff", None, True, False),
        "none": (),
    }
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps(content, protocol))
    read = read_pickle(path)
    assert np.array_equal(read.pop("data"), content.pop("data")) and read == content


def test_python2_batch_is_what_pickle_reads(tmp_path, rng):
    pixels = rng.integers(0, 256, (3, 3072), dtype=np.uint8)
    path = tmp_path / "batch"
    path.write_bytes(python2_batch(pixels, [1, 0, 2]))
    images = read_cifar([path], "labels", TEN, "toy")
    assert np.array_equal(images.images.flatten(1).numpy(), pixels) and images.labels.tolist() == [1, 0, 2]


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_malicious_pickle_is_refused_and_not_run(tmp_path, protocol):
    mark = tmp_path / "was-run"
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps({"data": Malice(os.system, f"touch {mark}")}, protocol))
    with pytest.raises(ValueError, match=r"system'.*refused without running") as caught:
        read_pickle(path)
    one_sentence(caught)
    path.write_bytes(pickle.dumps({"data": Malice(eval, f"open({str(mark)!r}, 'w')")}, protocol))
    with pytest.raises(ValueError, match=r"eval'.*refused without running"):
        read_pickle(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "damaged"),
        (b"\x80\x02]q\x01.", "holds a list"),
        (b"\x80\x02r\xff\xff\xff\xff.", "damaged"),  # an instruction that makes unpicklers grow a huge memo
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\x0f.", "damaged"),  # a string of 2^60 bytes
        (b"\x80\x02}(](K\x01eK\x02u.", "no string"),
        (b"(i__main__\nMalice\n.", "INST has no place"),
        (pickle.dumps({"data": np.zeros((2, 3072))}, 2), "not of unsigned bytes"),
    ],
)
def test_bad_pickles(tmp_path, data, said):
    path = tmp_path / "batch"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=said) as caught:
        read_pickle(path)
    assert str(path) in one_sentence(caught)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "no 'data' of 3072"),
        ({"data": np.zeros((2, 3071), np.uint8)}, "no 'data' of 3072"),
        ({"data": np.zeros((2, 3072), np.uint8)}, "no 'labels'"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [1, 10]}, "from 0 to 9"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [1, 1.5]}, "BINFLOAT has no place"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}, "2 images but 1 labels"),
    ],
)
def test_bad_cifar_contents(tmp_path, content, said):
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps(content, 2))
    with pytest.raises(ValueError, match=said):
        read_cifar([path], "labels", TEN, "toy")


@FUZZ
@given(data=damaged(python2_batch(np.zeros((1, 40), np.uint8), [1, 2, 3])) | st.binary(max_size=60))
def test_fuzzed_pickles(tmp_path, data):
    must_only_raise_value_error(read_pickle, tmp_path / "x", data)
    must_only_raise_value_error(lambda p: read_cifar([p], "labels", TEN, "toy"), tmp_path / "x", data)


# The real sets, where they are


@pytest.mark.skipif("FORWARDONLY_DATA" not in os.environ, reason="FORWARDONLY_DATA is not set")
@pytest.mark.parametrize(
    ("name", "shape", "checksum"),
    [("mnist", (1, 28, 28), 10), ("fashion-mnist", (1, 28, 28), 10), ("cifar-10", (3, 32, 32), 10)],
)
def test_real_sets(name, shape, checksum):
    from forwardonly.data import describe, verify

    if describe(name)["found"] is None:
        pytest.skip(f"{name} is not in FORWARDONLY_DATA")
    assert {check["status"] for check in verify(name)} == {"ok"}
    train, validation, test = load(name, validation=5_000, download=False)
    total = 50_000 if name == "cifar-10" else 60_000
    assert validation is not None
    assert (len(train), len(validation), len(test)) == (total - 5_000, 5_000, 10_000)
    assert train.shape == shape and len(train.classes) == checksum
    assert abs(validation.labels.bincount() / 5_000 - train.labels.bincount() / len(train)).max() < 1e-3


def test_digits():
    train, validation, test = load("digits", validation=100)
    assert validation is not None
    assert (len(train), len(validation), len(test)) == (1338, 100, 359) and train.shape == (1, 8, 8)
    assert train.images.max() == 255 and zlib.crc32(test.labels.numpy().tobytes()) == zlib.crc32(
        load("digits", seed=5).test.labels.numpy().tobytes()
    )


def test_unknown_names_suggest_the_nearest(tmp_path):
    for wrong, right in (("mnst", "mnist"), ("cifar10", "cifar-10"), ("fashion", "fashion-mnist")):
        with pytest.raises(ValueError, match=f"did you mean {right!r}"):
            load(wrong)
    for name in ("x" * 5000, "a\0b", ""):
        with pytest.raises(ValueError, match=r"."):
            load(name)
    with pytest.raises(ValueError, match="there is no such file"):
        load(tmp_path / "none.npz")
    (tmp_path / "x.csv").write_text("1,2")
    with pytest.raises(ValueError, match=r"neither a folder of images nor an .npz file"):
        load(tmp_path / "x.csv")
    with pytest.raises(ValueError, match="image_size is for folders"):
        load("digits", image_size=16)
    assert not Path("mnst").exists()


@pytest.mark.parametrize("kept", [True, False], ids=["its file", "its function"])
def test_digits_are_those_of_scikit_learn(monkeypatch, tmp_path, kept):
    datasets = pytest.importorskip("sklearn.datasets")
    if not kept:  # a release that keeps the file elsewhere
        there = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: there)
    pixels, labels = datasets.load_digits(return_X_y=True)
    train, _, test = load("digits")
    found = [
        (*image.flatten().tolist(), int(label))
        for part in (train, test)
        for image, label in zip(part.images, part.labels, strict=True)
    ]
    expected = np.column_stack([np.round(pixels * 255 / 16), labels]).astype(int)
    assert sorted(found) == sorted(map(tuple, expected.tolist()))
