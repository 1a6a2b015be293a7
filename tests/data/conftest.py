"""Small files in the real sets' formats, written for each test, and small sets that a server offers."""

# mypy: allow-untyped-defs, allow-incomplete-defs

import dataclasses
import gzip
import io
import pickle
import struct
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from forwardonly.data import sources
from forwardonly.data.sources import File

from .served import Server, md5, zipped


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


@pytest.fixture
def server():
    """A running server, without files so far."""
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def no_other_folders(monkeypatch, tmp_path):
    """No data sets about, and no proxy between a test and its server."""
    monkeypatch.delenv("FORWARDONLY_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def mnist(server, monkeypatch, rng):
    """MNIST's entry in the table, but small and offered by our server."""
    known = sources.SOURCES["mnist"]
    arrays = (rng.integers(0, 256, (20, 28, 28)), np.arange(20) % 10) * 2
    files = []
    for file, array in zip(known.files, arrays, strict=True):
        data = idx_bytes(array)  # not gzipped in spite of its name, which the reader sees from its bytes
        server.files[Path(file.path).name] = data
        files.append(File(file.path, md5(data), len(data)))
    url = f"http://127.0.0.1:{server.server_port}/"
    known = dataclasses.replace(known, train=20, test=20, url=url, files=tuple(files))
    monkeypatch.setitem(sources.SOURCES, "mnist", known)
    return known


@pytest.fixture
def cifar(server, monkeypatch, rng):
    """CIFAR-10's entry with a small archive, which also holds what it should not."""
    known = sources.SOURCES["cifar-10"]
    buffer = io.BytesIO()
    files = []
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:

        def add(name, data, kind=tarfile.REGTYPE):
            member = tarfile.TarInfo(name)
            member.size, member.type, member.linkname = len(data), kind, "/etc/passwd"
            archive.addfile(member, io.BytesIO(data))

        add("../escaped", b"x")
        add("cifar-10-batches-py/other", b"", tarfile.SYMTYPE)
        for file in known.files:
            data = python2_batch(rng.integers(0, 256, (20, 3072), dtype=np.uint8), [n % 10 for n in range(20)])
            if file.path.endswith("meta"):
                data = b"(dp0\nS'label_names'\np1\n(" + b"".join(b"S'c%d'\n" % n for n in range(10)) + b"ls."
            add(file.path, data)
            files.append(File(file.path, md5(data)))
    data = buffer.getvalue()
    server.files["cifar-10-python.tar.gz"] = data
    url = f"http://127.0.0.1:{server.server_port}/"
    archive_file = File("cifar-10-python.tar.gz", md5(data), len(data))
    known = dataclasses.replace(known, train=100, test=20, url=url, files=tuple(files), archive=archive_file)
    monkeypatch.setitem(sources.SOURCES, "cifar-10", known)
    return known


@pytest.fixture
def tiny(server, monkeypatch, picture, tmp_path):
    """Tiny ImageNet's entry with 2 x 3 + 4 images, and its archive on our server."""
    top = tmp_path / "made" / "tiny-imagenet-200"
    for wnid in ("n01", "n02"):
        for n in range(3):
            picture(top / "train" / wnid / "images" / f"{wnid}_{n}.JPEG", mode="RGB", size=(64, 64))
    for n in range(4):
        picture(top / "val/images" / f"val_{n}.JPEG", size=(64, 64))
    (top / "wnids.txt").write_text("n02\nn01\n")
    (top / "words.txt").write_text("n01\tgoldfish, Carassius\nn02\tcrane\n")
    (top / "val/val_annotations.txt").write_text("".join(f"val_{n}.JPEG\tn01\t0\t0\t62\t62\n" for n in range(4)))
    data = zipped(top)
    server.files["tiny-imagenet-200.zip"] = data
    known = sources.SOURCES["tiny-imagenet"]
    url, archive = f"http://127.0.0.1:{server.server_port}/", File("tiny-imagenet-200.zip", md5(data), len(data))
    monkeypatch.setitem(
        sources.SOURCES, "tiny-imagenet", dataclasses.replace(known, train=6, test=4, url=url, archive=archive)
    )
    return top
