"""The data that a saved network is measured on: the options for it, and its images by the network's class names."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

import forwardonly as fo
from forwardonly.cli.parsing import UNSET, Common
from forwardonly.cli.runs import SavedRun
from forwardonly.data.matching import digest, named_as
from forwardonly.training.runs.folder import DIGEST


@dataclass(frozen=True, kw_only=True)
class OnData(Common):
    """Options of commands that measure a saved network."""

    data: Annotated[str | None, UNSET, tyro.conf.DisallowNone] = None
    """Data set whose test images are used, by default the one that the run was trained on; of a folder or file without
    a test part all images are.
    """
    data_dir: Annotated[Path | None, UNSET, tyro.conf.DisallowNone] = None
    """Folder of the data sets; by default the run's own, then $FORWARDONLY_DATA, then the user's cache."""
    image_size: Annotated[int | None, UNSET, tyro.conf.DisallowNone] = None
    """Resize and crop the images of a folder to squares of this many pixels; by default as the run did."""


def test_images(chosen: OnData, saved_run: SavedRun) -> tuple[fo.data.Images, bool]:
    """(images to measure on, whether they are all of a set), whose labels are indices into the run's classes.

    Raises:
        ValueError: it is not known on what data, or they cannot be read, or do not fit the network.
    """
    known = saved_run.trained_on
    if chosen.data is None and known is None:
        raise ValueError(f"{saved_run.folder} was trained in Python and says nothing of its data: name a set by --data")
    name = chosen.data or saved_run.data["name"]
    size = chosen.image_size
    is_folder = os.path.isdir(name) and name not in fo.data.NAMES
    if known is not None and size is None and is_folder:
        size = known["image_size"]
    own = known is not None and _place(name) == _place(known["name"])  # has images that it was trained on
    where = chosen.data_dir or (known or {}).get("data_dir")
    images, whole = fo.data.load_test(name, data_dir=where, image_size=size, whole=not own)
    if whole and (held := _held_out(saved_run, name, size)) is not None:
        images, whole = held, False
    _, height, width = saved_run.network.shape
    if is_folder and height == width and images.shape[1:] != (height, width):
        found = " x ".join(map(str, images.shape[1:]))
        wanted = f"{height} x {width}: give --image-size {width}"
        raise ValueError(f"the images in {name} are {found} and the network's {wanted}")
    return named_as(images, saved_run.classes, str(saved_run.folder)), whole


def _held_out(saved_run: SavedRun, name: str, size: int | None) -> fo.data.Images | None:
    """The test images of a folder or file that the network has learned from, known by its content; else None."""
    learned_from = saved_run.config.get(DIGEST)
    if not isinstance(learned_from, str):
        return None
    known = saved_run.trained_on or {}
    try:
        train, _, test = fo.data.load(
            name, validation=known.get("validation", 0), limit=known.get("limit"), image_size=size
        )
    except ValueError:  # of one class, or too small to be split
        return None
    return test if digest(train) == learned_from.partition("-")[0] else None


def _place(name: str) -> str:
    """A known set's name, or the absolute path of a folder or file."""
    return name if name in fo.data.NAMES else str(Path(name).expanduser().resolve())
