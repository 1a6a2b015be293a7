"""The known sets, read from their files and counted: a part of a set is not taken for the set."""

from __future__ import annotations

import shlex
from pathlib import Path

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
    test = _read_test(name, root, data_dir)
    known = source(name)
    if name == "tiny-imagenet":
        train = read_tiny_imagenet(root, "train")
    else:
        files = [path for file in known.files if (path := locate(root, file))]
        if name in ("mnist", "fashion-mnist"):
            train = read_mnist(files[0], files[1], test.classes, name)
        else:
            train = read_cifar(files[:-2], _labels_key(name), test.classes, name)
    return _counted(train, known.train, "training", root, data_dir), test


def read_known_test(name: str, data_dir: str | Path | None) -> Images:
    """The test images of a known set with files of its own; the training images are not read.

    Raises:
        ValueError: as `read_known`.
    """
    return _read_test(name, _found(name, data_dir, download=True), data_dir)


def _found(name: str, data_dir: str | Path | None, download: bool) -> Path:
    root = find(name, data_dir)
    if root is None and download:
        root = fetch(name, data_dir)
    if root is None:
        raise ValueError(f"{name} is not here and downloading is off: {missing(name, data_dir)}")
    return unpack(source(name), root)


def _read_test(name: str, root: Path, data_dir: str | Path | None) -> Images:
    known = source(name)
    files = [path for file in known.files if (path := locate(root, file))]
    if name == "tiny-imagenet":
        test = read_tiny_imagenet(root, "test")
    elif name in ("mnist", "fashion-mnist"):
        test = read_mnist(files[2], files[3], _DIGITS if name == "mnist" else _CLOTHES, name)
    else:
        classes = read_cifar_classes(files[-1], "label_names" if name == "cifar-10" else "fine_label_names")
        test = read_cifar([files[-2]], _labels_key(name), classes, name)
    return _counted(test, known.test, "test", root, data_dir)


def _labels_key(name: str) -> str:
    return "labels" if name == "cifar-10" else "fine_labels"


def _counted(images: Images, wanted: int, part: str, root: Path, data_dir: str | Path | None) -> Images:
    """The images; ValueError unless there are as many as the set has."""
    if len(images) != wanted:
        repair = ["forwardonly", "data", "fetch", images.name]
        repair += [] if data_dir is None else ["--data-dir", str(data_dir)]
        raise ValueError(
            f"{images.name} in {root} has {len(images):,} {part} images, not {wanted:,}: repair it with "
            f"`{shlex.join(repair)}`, or move it away"
        )
    return images


def _read_digits() -> tuple[Images, Images]:
    """Scikit-learn's 1,797 handwritten digits, 8 x 8, whose 17 grey levels are spread over 0 to 255."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ValueError("digits come with scikit-learn: pip install 'forward-only[sklearn]'") from error
    pixels, labels = load_digits(return_X_y=True)
    grey = torch.from_numpy(pixels).mul(255 / 16).round().to(torch.uint8).view(-1, 1, 8, 8)
    return split_test(Images(grey, torch.from_numpy(labels).long(), _DIGITS, "digits"))
