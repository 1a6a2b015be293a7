"""Image files: a folder with a directory per class, Tiny ImageNet, and files to predict."""

from __future__ import annotations

import os
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np
import torch
from torch import Tensor

from forwardonly.data.formats import split_test
from forwardonly.data.images import Images
from forwardonly.data.reading import UnreadableError, reading

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 50_000_000  # of one image file; more is a decompression bomb or belongs elsewhere
_GREY = {"1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N"}
_LAYOUT = "a folder of images has FOLDER/CLASS/IMAGE, or FOLDER/train/CLASS/IMAGE and FOLDER/test/CLASS/IMAGE"


class Picture(Protocol):
    """A file to read: a path, or a member of an archive; its `str` is its name in messages."""

    def open(self, mode: Any, /) -> Any: ...


@dataclass(frozen=True)
class _Member:
    archive: zipfile.ZipFile
    name: str

    def open(self, mode: Any, /) -> Any:
        member = self.archive.getinfo(self.name)
        if member.file_size > MAX_PIXELS:
            raise UnreadableError(f"{self}: {member.file_size} bytes are too many for an image here")
        return self.archive.open(member)

    def __str__(self) -> str:
        return f"{self.archive.filename}:{self.name}"


def read_images(
    files: Sequence[Picture], *, shape: tuple[int, int, int] | None = None, image_size: int | None = None
) -> Tensor:
    """Image files of any Pillow format as one uint8 tensor (N, C, H, W).

    shape: (C, H, W) of the result, C being 1 (grey) or 3 (RGB); by default RGB unless all are grey, and the size that
    they all have. image_size: resize the shorter side to this many pixels and cut out the centre square. Raises
    ValueError, naming the file, for one that is damaged or of another size.
    """
    if not files:
        raise ValueError("there are no image files to read")
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size must be at least 1 pixel, not {image_size}")
    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("ignore")  # Pillow warns of metadata and of sizes, which are checked here
        if shape is None:
            heads = list(pool.map(picture_head, files))
            if image_size is None:
                _require_one_size(files, [size for _, size in heads])
            width, height = heads[0][1] if image_size is None else (image_size, image_size)
            shape = (1 if all(grey for grey, _ in heads) else 3, height, width)
        if shape[0] not in (1, 3):
            raise ValueError(f"image files have 1 channel or 3, not {shape[0]}")
        pixels = np.empty((len(files), *shape), np.uint8)

        def decode(index: int) -> None:
            pixels[index] = _decode(files[index], shape, image_size)

        for _ in pool.map(decode, range(len(files))):
            pass
    return torch.from_numpy(pixels)


def read_folder(root: Path, image_size: int | None) -> tuple[Images, Images | None, Images]:
    """(train, validation, test) of a folder: its own `train`, `val` and `test`, or a fixed split of 20 %.

    With `train` and `val` but no `test`, `val` is the test set. Classes are the sorted names of the directories.
    """
    parts = {name: root / name for name in ("train", "val", "test") if (root / name).is_dir()}
    if "train" in parts and len(parts) > 1:
        classes = tuple(name for name, _ in _class_files(parts["train"]))
        listed = {part: _class_files(folder) for part, folder in parts.items()}
    else:
        listed = {"train": _class_files(root)}
        classes = tuple(name for name, _ in listed["train"])
    if len(classes) < 2:
        raise ValueError(f"{root}: at least two classes are needed, {_LAYOUT}")
    files: list[Path] = []
    labels: list[int] = []
    where: list[str] = []
    for part, folders in listed.items():
        for name, members in folders:
            if name not in classes:
                raise ValueError(f"{parts[part] / name}: the class {name!r} has no directory in {parts['train']}")
            files += members
            labels += [classes.index(name)] * len(members)
            where += [part] * len(members)
    # All parts at once, so that a grey part and a coloured part get the same number of channels.
    everything = Images(read_images(files, image_size=image_size), torch.tensor(labels), classes, root.resolve().name)
    if len(listed) == 1:
        train, test = split_test(everything)
        return train, None, test
    split = {
        part: everything.subset(torch.tensor([i for i, w in enumerate(where) if w == part], dtype=torch.int64))
        for part in listed
    }
    if "test" not in split:
        return split["train"], None, split["val"]
    return split["train"], split.get("val"), split["test"]


def read_tiny_imagenet_test(root: Path) -> Images:
    """The test images of Tiny ImageNet, as `read_tiny_imagenet` has them, without those that train."""
    _, test = read_tiny_imagenet(root, train=False)
    return test


def read_tiny_imagenet(root: Path, *, train: bool = True) -> tuple[Images, Images]:
    """(train, test) of Tiny ImageNet, from `tiny-imagenet-200/` or straight from its `.zip` in `root`.

    Its `val` is our test, as its own test images have no public labels. Images are (3, 64, 64). Without `train` the
    training images are not decoded, and both are the test images.
    """
    folder, archive = root / "tiny-imagenet-200", root / "tiny-imagenet-200.zip"
    if folder.is_dir():
        listed = [p.relative_to(root).as_posix() for p in folder.glob("train/*/images/*.JPEG")]
        return _tiny_imagenet(listed if train else [], lambda name: root / name, str(folder))
    with reading(archive, "a zip archive"), zipfile.ZipFile(archive) as opened:
        return _tiny_imagenet(opened.namelist() if train else [], lambda name: _Member(opened, name), str(archive))


def _tiny_imagenet(listed: list[str], member: Callable[[str], Picture], where: str) -> tuple[Images, Images]:
    def lines(name: str) -> list[list[str]]:
        with (
            reading(f"{where}, {name}", "a text of Tiny ImageNet"),
            member(f"tiny-imagenet-200/{name}").open("rb") as f,
        ):
            return [line.split("\t") for line in f.read().decode().splitlines() if line]

    ids = sorted(line[0] for line in lines("wnids.txt"))
    words = {line[0]: line[1].split(",")[0] for line in lines("words.txt") if len(line) > 1}
    shared = Counter(words.get(i, i) for i in ids)
    classes = tuple(words.get(i, i) if shared[words.get(i, i)] == 1 else f"{words.get(i, i)} ({i})" for i in ids)
    index_of = {wnid: number for number, wnid in enumerate(ids)}

    def images(named: list[tuple[str, str]], part: str) -> Images:
        for name, wnid in named:
            if wnid not in index_of:
                raise ValueError(f"{where}: {name} is of class {wnid!r}, which wnids.txt does not list")
        pixels = read_images([member(name) for name, _ in named], shape=(3, 64, 64))
        return Images(pixels, torch.tensor([index_of[wnid] for _, wnid in named]), classes, part)

    train = [(n, n.split("/")[2]) for n in sorted(listed) if n.count("/") == 4 and n.split("/")[1] == "train"]
    test = [(f"tiny-imagenet-200/val/images/{x[0]}", x[1]) for x in lines("val/val_annotations.txt") if len(x) > 1]
    if any(".." in name or name.count("/") != 3 for name, _ in test):
        raise ValueError(f"{where}: val_annotations.txt names a file outside its own folder")
    held = images(test, "tiny-imagenet")
    return images([(n, w) for n, w in train if n.endswith(".JPEG")], "tiny-imagenet") if listed else held, held


def list_images(folder: Path) -> list[Path]:
    """The image files directly in `folder`, sorted; hidden files and other kinds are skipped."""
    with reading(folder, "a folder"):
        _, suffixes = _pillow()
        return sorted(p for p in folder.iterdir() if p.suffix.lower() in suffixes and p.name[0] != "." and p.is_file())


def _class_files(folder: Path) -> list[tuple[str, list[Path]]]:
    """(class name, its files) for each directory; ValueError if there is none or one is empty."""
    with reading(folder, "a folder"):
        directories = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not directories:
        raise ValueError(f"{folder}: there are no class directories in it, {_LAYOUT}")
    found = [(d.name, list_images(d)) for d in directories]
    for name, files in found:
        if not files:
            raise ValueError(f"{folder / name}: the class {name!r} has no examples, there is no image in its directory")
    return found


@cache
def _pillow() -> tuple[tuple[str, ...], frozenset[str]]:
    """(formats to read, their suffixes): all of Pillow's but PostScript, a program that would be executed."""
    try:
        from PIL import Image
    except ImportError as error:
        raise UnreadableError("image files need Pillow: pip install 'forward-only[images]'") from error
    Image.init()
    formats = tuple(name for name in Image.ID if name != "EPS" and name in Image.OPEN)
    return formats, frozenset(s for s, name in Image.registered_extensions().items() if name in formats)


def _open(file: Picture, stream: BinaryIO) -> Image:
    formats, _ = _pillow()
    from PIL import Image

    image = Image.open(stream, formats=formats)
    if image.width * image.height > MAX_PIXELS:
        raise UnreadableError(f"{file}: {image.width} x {image.height} pixels, more than {MAX_PIXELS:,} are refused")
    return image


def picture_head(file: Picture) -> tuple[bool, tuple[int, int]]:
    """(is it grey, (width, height)) from the file's header alone."""
    with reading(file, "an image"), file.open("rb") as stream, _open(file, stream) as image:
        return image.mode in _GREY, image.size


def _require_one_size(files: Sequence[Picture], sizes: list[tuple[int, int]]) -> None:
    usual = Counter(sizes).most_common(1)[0][0]
    for file, size in zip(files, sizes, strict=True):
        if size != usual:
            raise ValueError(
                f"{file}: it is {size[0]} x {size[1]} pixels, others are {usual[0]} x {usual[1]}: "
                "make them agree, or give --image-size N (image_size=N) to resize all"
            )


def _decode(file: Picture, shape: tuple[int, int, int], image_size: int | None) -> np.ndarray:
    """One file as (C, H, W) uint8."""
    channels, height, width = shape
    with reading(file, "an image"), file.open("rb") as stream, _open(file, stream) as opened:
        from PIL import Image, ImageOps

        if opened.mode.startswith("I;16"):  # keep the high byte: convert() would clip to white
            image: Image.Image = Image.fromarray((np.asarray(opened).astype(np.uint16) >> 8).astype(np.uint8))
        elif opened.mode in ("I", "F"):
            raise UnreadableError(f"{file}: it has 32 bits a channel, save it with 8")
        else:
            image = opened
        image = image.convert("L" if channels == 1 else "RGB")
        if image_size is not None:
            image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BICUBIC)
        if image.size != (width, height):
            raise UnreadableError(f"{file}: it is {image.width} x {image.height} pixels, it must be {width} x {height}")
        return np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1)
