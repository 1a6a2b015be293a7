"""Small files in the real sets' formats, written for each test."""

# mypy: allow-untyped-defs, allow-incomplete-defs

import dataclasses
import gzip
import pickle
import struct

import numpy as np
import pytest
from PIL import Image

from forwardonly.data import sources


def idx_bytes(array):
    """An idx file of unsigned bytes."""
    head = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(np.uint8).tobytes()


def python2_batch(pixels, labels, key=b"labels"):
    """A CIFAR batch with the very instructions Python 2 wrote, protocol 2."""

    def string(text):
        return b"T" + struct.pack("<i", len(text)) + text

    def integer(n):
        return b"J" + struct.pack("<i", n)

    array = b"cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\x09"
    array += b"(K\x01" + integer(pixels.shape[0]) + integer(pixels.shape[1]) + b"\x86"
    array += (
        b"cnumpy\ndtype\nq\nU\x02u1K\x00K\x01\x87Rq\x0b(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
    )
    array += string(pixels.tobytes()) + b"tb"
    listed = b"](" + b"".join(integer(n) for n in labels) + b"e"
    return b"\x80\x02}q\x01(" + string(b"data") + array + string(key) + listed + b"u."


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def known_size(monkeypatch):
    """Lets a known set have so many images: known_size("mnist", 40, 20)."""

    def resize(name, train, test):
        known = dataclasses.replace(sources.SOURCES[name], train=train, test=test)
        monkeypatch.setitem(sources.SOURCES, name, known)

    return resize


@pytest.fixture
def mnist_root(tmp_path, rng, known_size):
    """A data folder with 40 + 20 images in MNIST's format; labels gzipped, images not."""
    known_size("mnist", 40, 20)
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 40), ("t10k", 20)):
        images = rng.integers(0, 256, (count, 28, 28))
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(images))
        labels = gzip.compress(idx_bytes(np.arange(count) % 10))
        (raw / f"{part}-labels-idx1-ubyte.gz").write_bytes(labels)
    return tmp_path


@pytest.fixture
def cifar_root(tmp_path, rng, known_size):
    """A data folder with 5 x 20 + 20 images in CIFAR-10's format."""
    known_size("cifar-10", 100, 20)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]:
        pixels = rng.integers(0, 256, (20, 3072), dtype=np.uint8)
        (folder / name).write_bytes(python2_batch(pixels, [n % 10 for n in range(20)]))
    names = [f"class{n}" for n in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}, protocol=0))
    return tmp_path


@pytest.fixture
def picture(rng):
    """Writes one image file: picture(path, mode="L", size=(8, 8))."""

    def write(path, mode="L", size=(8, 8)):
        path.parent.mkdir(parents=True, exist_ok=True)
        width, height = size
        shape = (height, width) if mode == "L" else (height, width, 3)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(path)
        return path

    return write
