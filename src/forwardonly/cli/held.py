"""The data that a saved network is measured on: the options for it, and its images by the network's class names."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

import forwardonly as fo
from forwardonly.cli.parsing import UNSET, Common
from forwardonly.cli.run_data import is_folder, place
from forwardonly.cli.runs import SavedRun
from forwardonly.data.held import stream_test
from forwardonly.data.large import Folder
from forwardonly.data.loading import divide
from forwardonly.data.matching import digest, named_as
from forwardonly.training.runs.folder import DIGEST

Set = TypeVar("Set", fo.data.Images, Folder)


@dataclass(frozen=True, kw_only=True)
class OnData(Common):
    """Options of commands that measure a saved network."""

    data: Annotated[str | None, UNSET, tyro.conf.DisallowNone] = None
    """Data to measure on, by default the run's: the test images, or all of a folder or file without a test part."""
    data_dir: Annotated[Path | None, UNSET, tyro.conf.DisallowNone] = None
    """Folder of the data sets; by default the run's own, then $FORWARDONLY_DATA, then the user's cache."""
    image_size: Annotated[int | None, UNSET, tyro.conf.DisallowNone] = None
    """Resize and crop the images of a folder to squares of this many pixels; by default as the run did."""


def source_of(chosen: OnData, saved_run: SavedRun) -> tuple[str, dict[str, Any]]:
    """The name of the data to measure on, and how they are read.

    Raises:
        ValueError: it is not known on what data the run was trained, and none are named.
    """
    known = saved_run.trained_on or {}
    name = chosen.data or saved_run.data["name"]
    size = chosen.image_size
    if size is None and is_folder(name):
        size = known.get("image_size")
    return name, {"data_dir": chosen.data_dir or known.get("data_dir"), "image_size": size}


def test_images(chosen: OnData, saved_run: SavedRun) -> tuple[fo.data.Images, bool]:
    """(images to measure on, whether they are all of a set), whose labels are indices into the run's classes.

    Raises:
        ValueError: it is not known on what data, or they cannot be read, or do not fit the network.
    """
    name, options = source_of(chosen, saved_run)
    read = fo.data.load_test(name, whole=not _is_own(saved_run, name), **options)
    return _fitting(saved_run, name, options["image_size"], *read)


def streamed_test_images(chosen: OnData, saved_run: SavedRun) -> tuple[fo.data.Images | Folder, bool]:
    """As `test_images`, but those of a folder that is larger than memory are decoded as they go by."""
    name, options = source_of(chosen, saved_run)
    size = options["image_size"]
    if not is_folder(name) or not fo.data.larger_than_memory(name, size):
        return test_images(chosen, saved_run)
    return _fitting(saved_run, name, size, *stream_test(name, image_size=size, whole=not _is_own(saved_run, name)))


def _fitting(saved_run: SavedRun, name: str, size: int | None, images: Set, whole: bool) -> tuple[Set, bool]:
    """The images with the run's labels, without those that it has learned from, and whether they are all."""
    if whole and (held := _held_out(saved_run, name, size, images)) is not None:
        images, whole = held, False
    _, height, width = saved_run.network.shape
    if is_folder(name) and height == width and tuple(images.shape[1:]) != (height, width):
        found = " x ".join(map(str, images.shape[1:]))
        wanted = f"{height} x {width}: give --image-size {width}"
        raise ValueError(f"the images in {name} are {found} and the network's {wanted}")
    return named_as(images, saved_run.classes, str(saved_run.folder)), whole


def _held_out(saved_run: SavedRun, name: str, size: int | None, everything: Set) -> Set | None:
    """The test images of a folder or file that the network has learned from, else None.

    A run that had them in memory knows them by their content, and one that streamed them by their files.
    """
    learned_from = saved_run.config.get(DIGEST)
    if not isinstance(learned_from, str):
        return None
    known = saved_run.trained_on or {}
    by_files = bool(known.get("streamed")) and is_folder(name) and not isinstance(everything, Folder)
    held = {"validation": known.get("validation", 0), "limit": known.get("limit")}
    try:
        train, _, test = divide(everything, None, None, seed=0, **held)
        learned: fo.data.Images | Folder = train
        if by_files:
            learned, _, _ = divide(stream_test(name, image_size=size, whole=True)[0], None, None, seed=0, **held)
    except ValueError:  # of one class, or too small to be split
        return None
    return test if digest(learned) == learned_from.partition("-")[0] else None


def _is_own(saved_run: SavedRun, name: str) -> bool:
    """Whether these are the data of which the network has learned from a part."""
    known = saved_run.trained_on
    return known is not None and place(name) == place(known["name"])
