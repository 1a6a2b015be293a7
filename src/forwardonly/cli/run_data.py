"""The data of a run, as the options of its command name them: read, and described in the run's config."""

import os
from pathlib import Path
from typing import Any

import forwardonly as fo
from forwardonly.data.large import Folder

DECIDES = ("validation", "limit", "image_size", "classes")
"""What a run's data must have in common with those that it is resumed with, besides the training images themselves."""


def load(chosen: Any) -> fo.data.Splits:
    """The splits of the data, in memory where they fit; a folder that does not is read as it is needed."""
    folder = is_folder(chosen.data)
    if chosen.cache and not folder:
        raise ValueError(f"--cache is for folders of images, and {chosen.data} is none")
    if chosen.cache and chosen.limit is not None:
        raise ValueError("--cache decodes a whole folder, and --limit takes a part: leave one out")
    if folder and chosen.limit is None and _streams(chosen):
        return fo.data.stream(
            chosen.data, validation=chosen.validation, image_size=chosen.image_size, cache=chosen.cache
        )
    return fo.data.load(
        chosen.data,
        validation=chosen.validation,
        limit=chosen.limit,
        data_dir=chosen.data_dir,
        image_size=chosen.image_size,
    )


def _streams(chosen: Any) -> bool:
    """Whether a folder is read as it is needed, as it was by a resumed run, which knows its images by that."""
    if chosen.cache or chosen.streamed is not None:
        return bool(chosen.cache or chosen.streamed)
    return fo.data.larger_than_memory(chosen.data, chosen.image_size)


def described(chosen: Any, train: Any) -> dict[str, Any]:
    """The data in the run's config; paths are absolute, so that they are valid from any folder."""
    return {
        "name": place(chosen.data),
        "data_dir": None if chosen.data_dir is None else str(chosen.data_dir.expanduser().resolve()),
        "image_size": chosen.image_size,
        "validation": chosen.validation,
        "limit": chosen.limit,
        "streamed": isinstance(train, Folder),
        "cache": chosen.cache,
        "classes": list(train.classes),
    }


def is_folder(name: str) -> bool:
    """Whether data of that name are a folder of images, and no known set."""
    return name not in fo.data.NAMES and os.path.isdir(Path(name).expanduser())


def place(name: str) -> str:
    """A known set's name, or the absolute path of a folder or file."""
    return name if name in fo.data.NAMES else str(Path(name).expanduser().resolve())
