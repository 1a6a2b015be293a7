"""The images to measure a network on: a set's test images alone, or all of a folder or file that has no test part."""

from __future__ import annotations

from pathlib import Path

from forwardonly.data.formats import split_test
from forwardonly.data.images import Images
from forwardonly.data.known import read_known_test
from forwardonly.data.large import Folder, read_streamed
from forwardonly.data.loading import load, read_path
from forwardonly.data.sources import SOURCES
from forwardonly.names import whole_number


def load_test(
    name_or_path: str | Path, *, data_dir: str | Path | None = None, image_size: int | None = None, whole: bool = True
) -> tuple[Images, bool]:
    """(images, whether they are all that there are): the test images of a set, whose training images are not read.

    All of a folder or file without a test part are returned with `whole`, else the share that `load` holds out as test.

    Raises:
        ValueError: as `load`.
    """
    name = str(name_or_path)
    image_size = None if image_size is None else whole_number("image_size", image_size, 1)
    known = name in SOURCES and not isinstance(name_or_path, Path)
    if known and name != "digits" and image_size is None:
        return read_known_test(name, data_dir), False
    if whole and not known:
        everything, _, test = read_path(name_or_path, image_size, fewest=1)
        return (everything, True) if test is None else (test, False)
    return load(name_or_path, data_dir=data_dir, image_size=image_size).test, False


def stream_test(folder: str | Path, *, image_size: int | None, whole: bool) -> tuple[Folder, bool]:
    """What `load_test` gives of a folder, decoded as it goes by."""
    everything, _, test = read_streamed(folder, image_size=image_size, fewest=1)
    if test is not None:
        return test, False
    return (everything, True) if whole else (split_test(everything)[1], False)
