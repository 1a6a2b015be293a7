"""`load` reads a known set, a folder or a file, and returns its splits."""

from __future__ import annotations

import os
from pathlib import Path

from forwardonly.data.folders import read_folder
from forwardonly.data.formats import read_npz, split_test
from forwardonly.data.images import Images, Set, Splits, hold_out, limited, require_contrast, require_every_class
from forwardonly.data.known import read_known
from forwardonly.data.sources import SOURCES, source
from forwardonly.names import require, whole_number


def load(
    name_or_path: str | Path,
    *,
    validation: int = 0,
    limit: int | None = None,
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    seed: int = 0,
    download: bool = True,
) -> Splits:
    """A known set by its name, a folder of images, or an `.npz` file, as uint8 images on the CPU.

        train, validation, test = load("mnist", validation=5_000)

    validation: how many training images are held out, each class by its share, by a generator seeded with
        `seed`; a folder that has `train`, `val` and `test` has its own validation images, taken instead.
    limit: how many of the other training images are taken, the same share of every class, by the same seed; validation
        and test images stay as they are, so that accuracies can be compared. None for all.
    data_dir: where known sets are or are put, by default $FORWARDONLY_DATA, then the user's cache.
    image_size: for folders, the side in pixels to which images are resized and cut.
    What was assumed and passed over is in `train.notes`, a sentence each. Raises ValueError, one sentence, for anything
    wrong with the name, the files or the numbers in them, and for training images that are all alike.
    """
    require("name_or_path", name_or_path, (str, os.PathLike), "the name of a data set, a folder or an .npz file")
    name, validation = str(name_or_path), whole_number("validation", validation, 0)
    seed = whole_number("seed", seed, 0)
    limit = None if limit is None else whole_number("limit", limit, 1)
    image_size = None if image_size is None else whole_number("image_size", image_size, 1)
    own: Images | None = None
    test: Images | None
    if name not in SOURCES or isinstance(name_or_path, Path):
        train, own, test = read_path(name_or_path, image_size)
    elif image_size is not None:
        _, height, width = source(name).shape
        raise ValueError(f"image_size is for folders of images, those of {name} are {height} x {width}")
    else:
        train, test = read_known(name, data_dir, download=download)
    return Splits(*divide(train, own, test, validation=validation, limit=limit, seed=seed))


def divide(
    train: Set, validation_part: Set | None, test: Set | None, *, validation: int, limit: int | None, seed: int
) -> tuple[Set, Set | None, Set]:
    """(train, validation, test) of what was read: the parts that it lacks are held out of the training images.

    Raises:
        ValueError: a class without examples to train on, images that are all alike, or too few to hold out so many.
    """
    if test is None:
        train, test = split_test(train)
    require_every_class(train)
    if isinstance(train, Images):
        require_contrast(train)
    if validation_part is None and validation != 0:
        train, validation_part = hold_out(train, validation, seed)
    return (train if limit is None else limited(train, limit, seed)), validation_part, test


def read_path(
    name_or_path: str | Path, image_size: int | None, *, fewest: int = 2
) -> tuple[Images, Images | None, Images | None]:
    """(train, validation, test) of a folder of at least `fewest` classes or a file; None for parts it does not have."""
    name, path = str(name_or_path), Path(name_or_path).expanduser()
    if os.path.isdir(path):  # unlike Path's, never raises
        return read_folder(path, image_size, fewest=fewest)
    if path.suffix.lower() == ".npz":
        if image_size is not None:
            raise ValueError("image_size is for folders of images, arrays keep their size")
        train, test = read_npz(path)
        return train, None, test
    if os.path.exists(path):
        raise ValueError(f"{path}: it is neither a folder of images nor an .npz file")
    source(name)  # raises, with the nearest name
    raise ValueError(f"{path}: there is no such folder or file")
