"""The known sets, read from their files and counted: a part of a set is not taken for the set."""

from __future__ import annotations

import importlib.util
import shlex
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from forwardonly.data.fetching import fetch, missing, unpack
from forwardonly.data.formats import read_cifar, read_cifar_classes, read_mnist, split_test
from forwardonly.data.images import Images
from forwardonly.data.pictures import read_tiny_imagenet
from forwardonly.data.sources import find, locate, source

_DIGITS = tuple("0123456789")
_CLOTHES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def read_known(name: str, data_dir: str | Path | None, *, download: bool = True) -> tuple[Images, Images]:
    """(train, test) of a known set.

    Raises:
        ValueError: it is not here, damaged, or a part of the set.
    """
    if name == "digits":
        return _read_digits()
    root = _found(name, data_dir, download)
    return _read(name, root, "train", data_dir), _read(name, root, "test", data_dir)


def read_known_test(name: str, data_dir: str | Path | None) -> Images:
    """The test images of a known set with files of its own; the training images are not read.

    Raises:
        ValueError: as `read_known`.
    """
    return _read(name, _found(name, data_dir, download=True), "test", data_dir)


def _found(name: str, data_dir: str | Path | None, download: bool) -> Path:
    root = find(name, data_dir)
    if root is None and download:
        root = fetch(name, data_dir)
    if root is None:
        raise ValueError(f"{name} is not here and downloading is off: {missing(name, data_dir)}")
    return unpack(source(name), root)


def _read(name: str, root: Path, part: Literal["train", "test"], data_dir: str | Path | None) -> Images:
    """A part of a set with files of its own; ValueError unless it has as many images as the set has."""
    known, trains = source(name), part == "train"
    files = [path for file in known.files if (path := locate(root, file))]
    if name == "tiny-imagenet":
        images = read_tiny_imagenet(root, part)
    elif name in ("mnist", "fashion-mnist"):
        pixels, labels = files[:2] if trains else files[2:]
        images = read_mnist(pixels, labels, _DIGITS if name == "mnist" else _CLOTHES, name)
    else:
        *batches, test, meta = files
        key, names = ("labels", "label_names") if name == "cifar-10" else ("fine_labels", "fine_label_names")
        images = read_cifar(batches if trains else [test], key, read_cifar_classes(meta, names), name)
    if len(images) != (wanted := known.train if trains else known.test):
        repair = ["forwardonly", "data", "fetch", name] + ([] if data_dir is None else ["--data-dir", str(data_dir)])
        raise ValueError(
            f"{name} in {root} has {len(images):,} {'training' if trains else 'test'} images, not {wanted:,}: repair "
            f"it with `{shlex.join(repair)}`, or move it away"
        )
    return images


def _read_digits() -> tuple[Images, Images]:
    """Scikit-learn's 1,797 handwritten digits, 8 x 8, whose 17 grey levels are spread over 0 to 255."""
    if (package := importlib.util.find_spec("sklearn")) is None or package.origin is None:
        raise ValueError("digits come with scikit-learn: pip install 'forward-only[sklearn]'")
    file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if file.is_file():  # importing scikit-learn takes ten times as long as reading its file
        rows = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.float32))
        pixels, labels = rows[:, :-1], rows[:, -1]
    else:
        from sklearn.datasets import load_digits

        pixels, labels = map(torch.from_numpy, load_digits(return_X_y=True))
    grey = pixels.mul(255 / 16).round().to(torch.uint8).view(-1, 1, 8, 8)
    return split_test(Images(grey, labels.long(), _DIGITS, "digits"))
