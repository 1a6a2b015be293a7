"""`load` reads a known set, a folder or a file, and returns its splits."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from forwardonly.data.fetching import fetch, missing, unpack
from forwardonly.data.folders import read_folder
from forwardonly.data.formats import read_cifar, read_cifar_classes, read_mnist, read_npz, split_test
from forwardonly.data.images import Images, Splits, hold_out, require_contrast, require_every_class
from forwardonly.data.pictures import read_tiny_imagenet
from forwardonly.data.sources import SOURCES, find, locate, source

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


def load(
    name_or_path: str | Path,
    *,
    validation: int = 0,
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    seed: int = 0,
    download: bool = True,
) -> Splits:
    """A known set by its name, a folder of images, or an `.npz` file, as uint8 images on the CPU.

        train, validation, test = load("mnist", validation=5_000)

    validation: how many training images are held out, each class by its share, by a generator seeded with
        `seed`; a folder that has `train`, `val` and `test` has its own validation images, taken instead.
    data_dir: where known sets are or are put, by default $FORWARDONLY_DATA, then the user's cache.
    image_size: for folders, the side in pixels to which images are resized and cut.
    What was assumed and passed over is in `train.notes`, a sentence each. Raises ValueError, one sentence, for anything
    wrong with the name, the files or the numbers in them, and for training images that are all alike.
    """
    name = str(name_or_path)
    if name not in SOURCES or isinstance(name_or_path, Path):
        train, own_validation, test = _read_path(Path(name_or_path).expanduser(), name, image_size)
    elif image_size is not None:
        _, height, width = source(name).shape
        raise ValueError(f"image_size is for folders of images, those of {name} are {height} x {width}")
    else:
        train, test = _read_known(name, data_dir, download)
        own_validation = None
    require_contrast(require_every_class(train))
    if own_validation is not None:
        return Splits(train, own_validation, test)
    if validation == 0:
        return Splits(train, None, test)
    train, held = hold_out(train, validation, seed)
    return Splits(train, held, test)


def _read_path(path: Path, name: str, image_size: int | None) -> tuple[Images, Images | None, Images]:
    if os.path.isdir(path):  # unlike Path's, never raises
        return read_folder(path, image_size)
    if path.suffix.lower() == ".npz":
        if image_size is not None:
            raise ValueError("image_size is for folders of images, arrays keep their size")
        train, test = read_npz(path)
        return train, None, test
    if os.path.exists(path):
        raise ValueError(f"{path}: it is neither a folder of images nor an .npz file")
    source(name)  # raises, with the nearest name
    raise ValueError(f"{path}: there is no such folder or file")


def _read_known(name: str, data_dir: str | Path | None, download: bool) -> tuple[Images, Images]:
    if name == "digits":
        return _read_digits()
    known = source(name)
    root = find(name, data_dir)
    if root is None and download:
        root = fetch(name, data_dir)
    if root is None:
        raise ValueError(f"{name} is not here and downloading is off: {missing(name, data_dir)}")
    if name == "tiny-imagenet":
        return read_tiny_imagenet(root)
    unpack(known, root)
    files = [path for file in known.files if (path := locate(root, file))]
    if name in ("mnist", "fashion-mnist"):
        classes = _DIGITS if name == "mnist" else _CLOTHES
        train_images, train_labels, test_images, test_labels = files
        return read_mnist(train_images, train_labels, classes, name), read_mnist(
            test_images, test_labels, classes, name
        )
    *train, test, meta = files
    labels, names = ("labels", "label_names") if name == "cifar-10" else ("fine_labels", "fine_label_names")
    classes = read_cifar_classes(meta, names)
    return read_cifar(train, labels, classes, name), read_cifar([test], labels, classes, name)


def _read_digits() -> tuple[Images, Images]:
    """Scikit-learn's 1,797 handwritten digits, 8 x 8, whose 17 grey levels are spread over 0 to 255."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ValueError("digits come with scikit-learn: pip install 'forward-only[sklearn]'") from error
    pixels, labels = load_digits(return_X_y=True)
    grey = torch.from_numpy(pixels).mul(255 / 16).round().to(torch.uint8).view(-1, 1, 8, 8)
    return split_test(Images(grey, torch.from_numpy(labels).long(), _DIGITS, "digits"))
