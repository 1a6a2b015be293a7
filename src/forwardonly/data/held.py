"""The images to measure a network on: a set's test images alone, or all of a folder or file that has no test part."""

from __future__ import annotations

import os
import zipfile
from dataclasses import replace
from pathlib import Path

import torch

from forwardonly.data.folders import PARTS, list_images
from forwardonly.data.formats import TEST_SHARE
from forwardonly.data.images import Images
from forwardonly.data.known import read_known_test
from forwardonly.data.loading import load
from forwardonly.data.pictures import read_images
from forwardonly.data.reading import reading
from forwardonly.data.sources import SOURCES


def load_test(
    name_or_path: str | Path, *, data_dir: str | Path | None = None, image_size: int | None = None, whole: bool = True
) -> tuple[Images, bool]:
    """(images, whether they are all that there are): the test images of a set, whose training images are not read.

    All of a folder or file without a test part are returned with `whole`, else the share that `load` holds out as test.

    Raises:
        ValueError: as `load`.
    """
    name = str(name_or_path)
    if name in SOURCES and not isinstance(name_or_path, Path) and name != "digits" and image_size is None:
        return read_known_test(name, data_dir), False
    path = Path(name_or_path).expanduser()
    if whole and (name not in SOURCES or isinstance(name_or_path, Path)):
        if os.path.isdir(path) and not _has_parts(path):
            return _whole_folder(path, image_size), True
        if os.path.isfile(path) and path.suffix.lower() == ".npz" and not _has_test(path):
            return _all_of(path, image_size), True
    return load(name_or_path, data_dir=data_dir, image_size=image_size).test, False


def _has_parts(folder: Path) -> bool:
    with reading(folder, "a folder"):
        return any(each.is_dir() and each.name.lower() in PARTS for each in folder.iterdir())


def _has_test(path: Path) -> bool:
    with reading(path, "an .npz file"), zipfile.ZipFile(path) as archive:
        return bool({"x_test.npy", "y_test.npy"} & set(archive.namelist()))


def _all_of(path: Path, image_size: int | None) -> Images:
    """All images of a set that `load` splits itself."""
    train, _, test = load(path, image_size=image_size)
    return replace(train, images=torch.cat([train.images, test.images]), labels=torch.cat([train.labels, test.labels]))


def _whole_folder(folder: Path, image_size: int | None) -> Images:
    """All images of a folder of class folders, also where there are too few to train on."""
    with reading(folder, "a folder"):
        classes = sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))
    listed = [list_images(each) for each in classes]
    count = sum(map(len, listed))
    if not count or not all(listed) or (len(classes) > 1 and round(TEST_SHARE * count) <= count - len(classes) > 0):
        return _all_of(folder, image_size)  # which also says what is wrong
    labels = torch.tensor([index for index, files in enumerate(listed) for _ in files])
    images = read_images([file for files in listed for file in files], image_size=image_size)
    return Images(images, labels, tuple(each.name for each in classes), folder.resolve().name)
