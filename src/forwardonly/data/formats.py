"""Files that hold a whole set of images: idx (MNIST's), CIFAR's pickles, numpy's npz.

Each reader compares the sizes in a header with the bytes in the file before it allocates memory for them, and raises
ValueError, one sentence that names the file, for anything wrong.
"""

from __future__ import annotations

import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from forwardonly.data.images import Images, Set, hold_out, spare
from forwardonly.data.pickles import read_pickle
from forwardonly.data.ranges import scale_top, to_bytes
from forwardonly.data.reading import GIB, UnreadableError, reading

DEFLATE_LIMIT = 1040  # deflate never shrinks further than 1032 to 1; a little more for headers
TEST_SHARE, SPLIT_SEED = 0.2, 0  # of sets without a test split; fixed, so that all runs agree


def split_test(everything: Set) -> tuple[Set, Set]:
    """(train, test) of a set without a test split: always the same stratified 20 %.

    Raises:
        ValueError: too few images for that.
    """
    count = max(1, round(TEST_SHARE * len(everything)))
    everything.require_labels()
    if (possible := spare(everything)) < count:
        raise ValueError(
            f"{everything.name}: {len(everything)} images in {len(everything) - possible} classes are too few to keep "
            "a fifth for testing, as each class keeps one to train on: add images, or give it a test part of its own"
        )
    return hold_out(everything, count, SPLIT_SEED)


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The uint8 array in an idx file, plain or `.gz`, which must have `dimensions` axes (3 for images, 1 for labels).

    Format: two zero bytes, a type byte (8 = uint8), the number of axes, each size as big-endian uint32, data.
    """
    start = 4 + 4 * dimensions
    with reading(path, "an idx file"):
        raw = path.read_bytes()
        zipped = raw[:2] == b"\x1f\x8b"
        head = zlib.decompressobj(31).decompress(raw, start) if zipped else raw[:start]
        if len(head) < start:
            raise UnreadableError(f"{path}: it ends within its header, so it was cut short")
        if head[:4] != bytes([0, 0, 8, dimensions]):
            raise UnreadableError(
                f"{path}: it begins with {head[:4].hex(' ')}, an idx file of bytes with {dimensions} "
                f"dimension(s) begins with 00 00 08 {dimensions:02x}"
            )
        shape = [int.from_bytes(head[i : i + 4]) for i in range(4, start, 4)]
        promised = start + int(np.prod(shape, dtype=object))
        if zipped and promised <= min(2 * GIB, DEFLATE_LIMIT * len(raw)):
            inflate = zlib.decompressobj(31)
            raw = inflate.decompress(raw, promised + 1)
            if len(raw) == promised and not inflate.eof:
                raise UnreadableError(f"{path}: its compressed data lack their end, so it was cut short")
        if len(raw) != promised:
            found = f"there are {len(raw)}" if not zipped or len(raw) <= promised else "there are more"
            raise UnreadableError(f"{path}: its header promises {promised} bytes, {found}")
        return np.frombuffer(raw, np.uint8, offset=start).reshape(shape).copy()


def read_mnist(images: Path, labels: Path, classes: tuple[str, ...], name: str) -> Images:
    """One split of MNIST or a set in its format."""
    pixels, digits = read_idx(images, 3), read_idx(labels, 1)
    if len(pixels) != len(digits):
        raise ValueError(f"{images} has {len(pixels)} images, {labels} has {len(digits)} labels: they must agree")
    if not pixels.size:
        raise ValueError(f"{images}: it has no images in it")
    return Images(torch.from_numpy(pixels)[:, None], torch.from_numpy(digits).long(), classes, name)


def read_cifar(files: list[Path], labels_key: str, classes: tuple[str, ...], name: str) -> Images:
    """One split of CIFAR-10 (`labels`) or CIFAR-100 (`fine_labels`) from its batch files: (N, 3, 32, 32)."""
    pixels: list[np.ndarray] = []
    numbers: list[int] = []
    for path in files:
        batch = read_pickle(path)
        data, labels = batch.get("data"), batch.get(labels_key)
        if isinstance(labels, np.ndarray) and labels.ndim == 1:
            labels = labels.tolist()
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
            raise ValueError(f"{path}: it has no 'data' of 3072 bytes an image")
        if not isinstance(labels, list) or not all(type(n) is int and 0 <= n < len(classes) for n in labels):
            raise ValueError(f"{path}: it has no {labels_key!r} that are numbers from 0 to {len(classes) - 1}")
        if len(labels) != len(data):
            raise ValueError(f"{path}: {len(data)} images but {len(labels)} labels")
        pixels.append(data)
        numbers.extend(labels)
    images = torch.from_numpy(np.concatenate(pixels)).view(-1, 3, 32, 32)
    return Images(images, torch.tensor(numbers, dtype=torch.int64), classes, name)


def read_cifar_classes(path: Path, key: str) -> tuple[str, ...]:
    """The class names in CIFAR's `batches.meta` (`label_names`) or `meta` (`fine_label_names`)."""
    names = read_pickle(path).get(key)
    if not isinstance(names, list) or not names or not all(isinstance(n, str | bytes) for n in names):
        raise ValueError(f"{path}: it has no list of {key!r}")
    return tuple(n.decode("latin-1") if isinstance(n, bytes) else n for n in names)


def read_npz(path: Path) -> tuple[Images, Images | None]:
    """(train, test) from numpy's `np.savez(path, x=..., y=...)`; test is None without `x_test` and `y_test`.

    x: (N, H, W), (N, C, H, W), (N, H, W, C), or features (N, D), which become images of (1, 1, D); floats 0 to 1, truth
    values, or whole numbers 0 to 255, which are spread over that range if none reaches 64. Where the channels are is
    told by the shape, or by `channel_axis` in the file (1 or 3) where that may be read both ways. y: (N,) whole numbers
    0 to C-1, each of which must occur.
    """
    arrays = _read_arrays(path)
    needed = ["x", "y", "x_test", "y_test"] if {"x_test", "y_test"} & arrays.keys() else ["x", "y"]
    for key in needed:
        if key not in arrays:
            raise ValueError(f"{path}: it has no array {key!r}; it needs x and y, or x, y, x_test and y_test")
    axis = None
    if (given := arrays.get("channel_axis")) is not None:
        if given.size != 1 or given.ravel()[0] not in (1, 3):
            raise ValueError(f"{path}: channel_axis must be 1, for (N, C, H, W), or 3, for (N, H, W, C)")
        axis = int(given.ravel()[0])
    top = scale_top(*(arrays[key] for key in ("x", "x_test") if key in arrays))
    (x, notes), y = _pixels(arrays["x"], f"{path}: x", axis, top), _labels(arrays["y"], f"{path}: y")
    present = np.unique(y)
    if not len(y) or present[-1] >= len(y) or len(present) != present[-1] + 1 or len(present) < 2:
        gap = next((i for i, n in enumerate(present) if i != n), len(present))
        raise ValueError(
            f"{path}: y must use each of 0 to C-1 and at least two classes, but class {gap} has no examples"
        )
    classes = tuple(str(n) for n in range(len(present)))
    train = _images(x, y, classes, path, notes)
    if "x_test" not in arrays:
        return train, None
    test_x, _ = _pixels(arrays["x_test"], f"{path}: x_test", axis, top)
    if test_x.shape[1:] != x.shape[1:]:
        raise ValueError(f"{path}: images in x_test are {test_x.shape[1:]}, in x {x.shape[1:]}: they must agree")
    return train, _images(test_x, _labels(arrays["y_test"], f"{path}: y_test"), classes, path)


def _images(x: np.ndarray, y: np.ndarray, classes: tuple[str, ...], path: Path, notes: tuple[str, ...] = ()) -> Images:
    if len(x) != len(y) or not len(x):
        raise ValueError(f"{path}: {len(x)} images but {len(y)} labels, there must be as many and at least one")
    return Images(torch.from_numpy(x), torch.from_numpy(y), classes, path.stem, notes)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Those of `read_npz`'s arrays that exist; never unpickles, never trusts the shape in a header."""
    with reading(path, "an .npz file"), zipfile.ZipFile(path) as archive:
        size = path.stat().st_size
        arrays = {}
        for key in ("x", "y", "x_test", "y_test", "channel_axis"):
            if f"{key}.npy" not in archive.namelist():
                continue
            member = archive.getinfo(f"{key}.npy")
            if member.compress_size > size or member.file_size > DEFLATE_LIMIT * max(member.compress_size, 1):
                raise UnreadableError(f"{path}: it promises more data for {key!r} than it can hold")
            if member.file_size > max(GIB, 100 * size):
                raise UnreadableError(f"{path}: {key!r} would unpack to {member.file_size >> 20} MiB, refused")
            with archive.open(member) as stream, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # numpy warns of arrays that Python 2 wrote, but reads them correctly
                # A zip member is a BinaryIO in all that is used here: read().
                arrays[key] = read_npy(stream, member.file_size, f"{path}: {key!r}")  # type: ignore[arg-type]
        return arrays


def read_npy(stream: BinaryIO, size: int, what: str) -> np.ndarray:
    """The array of numbers in a `.npy` file of `size` bytes; ValueError for any other content."""
    read_header: Any = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    version = np.lib.format.read_magic(stream)
    if version not in read_header:
        raise UnreadableError(f"{what} is in npy version {version}, not 1.0 or 2.0")
    shape, fortran, dtype = read_header[version](stream)
    if dtype.kind not in "biuf":
        raise UnreadableError(f"{what} holds {dtype}, not numbers")
    if not all(n >= 0 for n in shape):
        raise UnreadableError(f"{what} has a negative size in its shape {shape}")
    promised = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if promised > size:
        raise UnreadableError(f"{what} promises {promised} bytes but has fewer, so it was cut short")
    data = stream.read(promised + 1)
    if len(data) != promised:
        raise UnreadableError(f"{what} promises {promised} bytes but has {len(data)}")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def _pixels(x: np.ndarray, what: str, axis: int | None, top: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Any accepted x as contiguous uint8 (N, C, H, W), and notes.

    axis: that of the channels, None if not given. top: the whole number that is white.
    """
    if x.ndim not in (2, 3, 4) or 0 in x.shape[1:]:
        raise ValueError(f"{what} has shape {x.shape}, it must be (N, H, W), (N, C, H, W), (N, H, W, C) or (N, D)")
    pixels, notes = to_bytes(x, what, top)
    if x.ndim == 2:
        pixels = pixels[:, None, None, :]
    elif x.ndim == 3:
        pixels = pixels[:, None]
    elif (_channel_axis(x.shape, what) if axis is None else axis) == 3:
        pixels = pixels.transpose(0, 3, 1, 2)
    return np.array(pixels, np.uint8, order="C"), notes


def _channel_axis(shape: tuple[int, ...], what: str) -> int:
    """1 or 3, the axis of the channels in (N, C, H, W) or (N, H, W, C).

    The two sides of a square image are alike, and images have 1, 3 or 4 channels more often than any other number.
    ValueError where these signs are missing or contradict each other.
    """
    _, front, middle, back = shape
    if front == back == 1:
        return 1  # either way one channel
    square = {axis for axis, (side, other) in {1: (back, front), 3: (front, back)}.items() if side == middle != other}
    square = square if middle > 1 else set()
    usual = {axis for axis, count in {1: front, 3: back}.items() if count in (1, 3, 4)}
    usual = usual if len(usual) == 1 else set()
    signs = square | usual
    if len(signs) == 1:
        return signs.pop()
    raise ValueError(
        f"{what} has shape {shape}, which may be {front} channels of {middle} x {back} or {back} channels of "
        f"{front} x {middle}: save channel_axis=1 or channel_axis=3 beside x to say where the channels are"
    )


def _labels(y: np.ndarray, what: str) -> np.ndarray:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise ValueError(f"{what} has shape {y.shape}, it must be (N,): one class number an image")
    if y.dtype.kind not in "iu":
        raise ValueError(f"{what} holds {y.dtype}, labels must be whole numbers from 0")
    if y.size and (y.min() < 0 or y.max() > 2**31):
        raise ValueError(f"{what} holds the label {y.min() if y.min() < 0 else y.max()}, labels count from 0")
    return y.astype(np.int64)
