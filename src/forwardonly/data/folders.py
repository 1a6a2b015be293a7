"""A folder with a directory per class, or with such folders for training, validation and testing."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from forwardonly.data.images import Images, Set
from forwardonly.data.pictures import pillow_formats, read_with_changes
from forwardonly.data.ranges import dark
from forwardonly.data.reading import reading
from forwardonly.data.seeing import EIGHT_BITS, ON_WHITE, UPRIGHT

_LAYOUT = "a folder of images has FOLDER/CLASS/IMAGE, or FOLDER/train/CLASS/IMAGE and FOLDER/test/CLASS/IMAGE"
PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""The part of a set that a folder of this name holds, in lower case; folders of other names are classes."""
_CLUTTER = {"__MACOSX", "@eaDir"}  # what macOS's zip and Synology put beside images
_SUFFIX, _LINK, _NO_FILE, _OUTSIDE, _BELOW = (
    "without the suffix of an image",
    "linked to nothing or to a folder",
    "no plain file",
    "outside the class folders",
    "folders below",
)
_SAID = {
    UPRIGHT: "turned upright by the orientation mark in the file",
    ON_WHITE: "transparent, laid on white",
    EIGHT_BITS: "of 16 bits a channel, 0 to 65535 made 0 to 255",
}

Passed = defaultdict[str, list[Path]]  # reason -> what was passed over for it


class Listing(NamedTuple):
    """The image files of a folder: all of one part of the set, then those of the next, and by class within a part."""

    files: list[Path]
    labels: list[int]
    """Index of each file's class."""
    where: list[str]
    """Part of each file: train, val or test."""
    classes: tuple[str, ...]
    below: int
    """How many lie in folders below their class's."""
    passed: Passed

    def notes(self, name: str, changes: Counter[str], seen: int) -> tuple[str, ...]:
        """What is said before training: what there is, what was passed over, and how pictures were changed.

        changes: how many pictures were changed in each way, of `seen` that were decoded.
        """
        first = f"{name}: {len(self.files):,} images in {len(self.classes)} classes"
        over = _counted(self.passed)
        if self.below:
            first += f", {self.below:,} of them in folders below their class's"
        if over:
            first += f"; passed over: {', '.join(over)}"
        of = f"{seen:,} pictures" if seen == len(self.files) else f"the {seen:,} pictures looked at"
        return (
            first,
            *(f"{changes[change]:,} of {of} are {said}" for change, said in _SAID.items() if changes[change]),
        )


def list_folder(root: Path, *, fewest: int = 2) -> Listing:
    """The image files of a folder of at least `fewest` classes. Raises ValueError for a folder of another layout."""
    passed: Passed = defaultdict(list)
    folders = _parts(root) or {"train": root}
    listed = {part: _class_files(folder, passed) for part, folder in folders.items()}
    classes = tuple(name for name, _ in listed["train"])
    if len(classes) < fewest:
        raise ValueError(f"{root}: at least two classes are needed, {_LAYOUT}")
    found = Listing([], [], [], classes, 0, passed)
    below = 0
    for part, members in listed.items():
        for name, files in members:
            if name not in classes:
                raise ValueError(f"{folders[part] / name}: the class {name!r} has no directory in {folders['train']}")
            found.files.extend(files)
            found.labels.extend([classes.index(name)] * len(files))
            found.where.extend([part] * len(files))
            below += sum(file.parent != folders[part] / name for file in files)
    return found._replace(below=below)


def split_parts(everything: Set, where: Sequence[str]) -> tuple[Set, Set | None, Set | None]:
    """(train, validation, test) of images whose parts are `where`; with `train` and `val` alone, `val` is the test."""
    named = dict.fromkeys(where)
    if len(named) == 1:
        return everything, None, None
    split = {
        part: everything.subset(torch.tensor([i for i, own in enumerate(where) if own == part], dtype=torch.int64))
        for part in named
    }
    if "test" not in split:
        return split["train"], None, split["val"]
    return split["train"], split.get("val"), split["test"]


def read_folder(root: Path, image_size: int | None, *, fewest: int = 2) -> tuple[Images, Images | None, Images | None]:
    """(train, validation, test) of a folder: its own `train`, `val` and `test`; None for those that it does not have.

    The parts may also be called training; valid, validation, dev; testing; in any case of letters. With `train` and
    `val` but no `test`, `val` is the test set. Classes are the sorted names of the directories, at least `fewest`;
    images in folders below them belong to them. `notes` of the training images say how many there are, what was passed
    over and how pictures were changed. Raises ValueError for a folder of another layout.
    """
    found = list_folder(root, fewest=fewest)
    # All parts at once, so that a grey part and a coloured part get the same number of channels.
    pixels, changes = read_with_changes(found.files, image_size=image_size)
    name = root.resolve().name
    notes = found.notes(name, changes, len(found.files))
    if black := dark(name, int(pixels.max())):
        notes = (*notes, black)
    return split_parts(Images(pixels, torch.tensor(found.labels), found.classes, name, notes), found.where)


def list_images(folder: Path) -> list[Path]:
    """The image files directly in `folder`, sorted; hidden files and other kinds are skipped."""
    with reading(folder, "a folder"):
        _, suffixes = pillow_formats()
        return sorted(p for p in folder.iterdir() if p.suffix.lower() in suffixes and p.name[0] != "." and p.is_file())


def passed_over(folder: Path) -> list[str]:
    """A sentence on what `list_images` leaves out of `folder`, hidden files aside; nothing if that is nothing."""
    passed: Passed = defaultdict(list)
    with reading(folder, "a folder"):
        there = sorted(p for p in folder.iterdir() if p.name[0] != "." and p.name not in _CLUTTER)
        _, suffixes = pillow_formats()
        for path in there:
            if path.is_dir():
                passed[_BELOW].append(path)
            elif path.suffix.lower() not in suffixes:
                passed[_SUFFIX].append(path)
            elif not path.is_file():
                passed[_LINK if path.is_symlink() else _NO_FILE].append(path)
    over = _counted(passed)
    hint = "; name the folders below to have their images too" if passed[_BELOW] else ""
    return [f"{folder}: passed over {', '.join(over)}{hint}"] if over else []


def _counted(passed: Passed) -> list[str]:
    return [f"{len(paths):,} {reason} (such as {paths[0].name})" for reason, paths in passed.items() if paths]


def _directories(folder: Path) -> list[Path]:
    with reading(folder, "a folder"):
        return sorted(p for p in folder.iterdir() if p.is_dir() and p.name[0] != "." and p.name not in _CLUTTER)


def _parts(root: Path) -> dict[str, Path]:
    """The folders of the parts "train", "val" and "test"; empty if the folder has classes straight in it."""
    folders = _directories(root)
    named = [(folder, PARTS.get(folder.name.lower())) for folder in folders]
    holds_classes = {folder for folder, part in named if part and _directories(folder) and not list_images(folder)}
    if not any(part == "train" and folder in holds_classes for folder, part in named):
        for folder, part in named:
            if part != "train" and folder in holds_classes:
                raise ValueError(f"{folder}: there is no train beside it, {_LAYOUT}")
        return {}
    parts: dict[str, Path] = {}
    for folder, part in named:
        if part is None:
            if _all_images(folder, defaultdict(list)):
                raise ValueError(f"{folder} has images but is neither train, val nor test: rename it or move it away")
        elif part in parts:
            raise ValueError(f"{parts[part]} and {folder} are both for {part}: keep one")
        else:
            parts[part] = folder
    return {part: parts[part] for part in ("train", "val", "test") if part in parts}


def _all_images(folder: Path, passed: Passed) -> list[Path]:
    """The image files in `folder` and below, sorted; those passed over are added to `passed`."""

    def fail(error: OSError) -> None:
        raise error

    _, suffixes = pillow_formats()
    found = []
    with reading(folder, "a folder"):
        for here, below, names in os.walk(folder, onerror=fail):
            below[:] = [name for name in below if name[0] != "." and name not in _CLUTTER]
            passed[_LINK] += [Path(here, name) for name in below if os.path.islink(os.path.join(here, name))]
            for path in (Path(here, name) for name in names if name[0] != "."):
                if path.suffix.lower() not in suffixes:
                    passed[_SUFFIX].append(path)
                elif path.is_file():
                    found.append(path)
                else:
                    passed[_LINK if path.is_symlink() else _NO_FILE].append(path)
    return sorted(found)


def _class_files(folder: Path, passed: Passed) -> list[tuple[str, list[Path]]]:
    """(class name, its files) for each directory; ValueError if there is none or one is empty."""
    directories = _directories(folder)
    if not directories:
        raise ValueError(f"{folder}: there are no class directories in it, {_LAYOUT}")
    passed[_OUTSIDE] += list_images(folder)
    found = [(d, _all_images(d, passed)) for d in directories]
    for directory, files in found:
        if not files:
            raise ValueError(
                f"{directory}: the class {directory.name!r} has no examples, there is no image in its directory"
            )
    inner = [{file.relative_to(d).parts[0] for file in files} for d, files in found]
    direct = any(file.parent == d for d, files in found for file in files)
    if len(found) > 1 and not direct and len(inner[0]) > 1 and all(each == inner[0] for each in inner):
        raise ValueError(
            f"{folder}: each of its folders holds {', '.join(sorted(inner[0])[:3])}, so these may be the classes "
            f"and {', '.join(d.name for d in directories[:3])} parts of the set: {_LAYOUT}"
        )
    return [(d.name, files) for d, files in found]
