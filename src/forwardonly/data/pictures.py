"""Image files, decoded as people see them, and Tiny ImageNet."""

from __future__ import annotations

import os
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from forwardonly.data.images import Images
from forwardonly.data.reading import UnreadableError, reading
from forwardonly.data.seeing import DARK, Seen, as_seen, in_mode, is_grey, upright_size
from forwardonly.data.sources import NAMED_BY_NUMBER, TINY
from forwardonly.system.cores import cores

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 50_000_000  # of one image file; more is a decompression bomb or belongs elsewhere


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


def pictures(files: Sequence[Picture | str] | Path | str) -> list[Picture]:
    """The files to read, of which some may be named by words; one alone is a list of one."""
    several = [files] if isinstance(files, str | Path) else files
    return [Path(file) if isinstance(file, str) else file for file in several]


def read_images(
    files: Sequence[Picture | str] | Path | str,
    *,
    shape: tuple[int, int, int] | None = None,
    image_size: int | None = None,
) -> Tensor:
    """Image files of any Pillow format as one uint8 tensor (N, C, H, W), as people see them.

    Pictures are turned by their orientation mark, laid on white where they are transparent, and 16 bits a channel are
    made 8; of several frames the first is taken. shape: (C, H, W) of the result, C being 1 (grey) or 3 (RGB); by
    default RGB unless all are grey, and the size that they all have. image_size: resize the shorter side to this many
    pixels and cut out the centre square. Raises ValueError, naming the file, for one that is damaged or of another
    size; for 16-bit pictures of which none reaches a quarter of the range, as they would be nearly black; and for more
    pixels than there is memory.
    """
    return read_with_changes(files, shape=shape, image_size=image_size)[0]


def read_with_changes(
    files: Sequence[Picture | str] | Path | str,
    *,
    shape: tuple[int, int, int] | None = None,
    image_size: int | None = None,
) -> tuple[Tensor, Counter[str]]:
    """`read_images`, and how many pictures were turned upright, laid on white, and made 8 bits of 16."""
    files = pictures(files)
    if not files:
        raise ValueError("there are no image files to read")
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size must be at least 1 pixel, not {image_size}")
    with quiet_pool() as pool:
        if shape is None:
            shape = common_shape(files, map(picture_head, files), image_size)
        if shape[0] not in (1, 3):
            raise ValueError(f"image files have 1 channel or 3, not {shape[0]}")
        pixels = _room(len(files), shape)
        seen = decode(files, shape, image_size, pixels, pool.map)
    _require_bright(files, seen)
    return torch.from_numpy(pixels), Counter(change for each in seen for change in each.changes)


def common_shape(
    files: Sequence[Picture], heads: Iterable[tuple[bool, tuple[int, int]]], image_size: int | None
) -> tuple[int, int, int]:
    """(C, H, W) of all files by their heads: grey if all are, and their size if no other is given.

    Where a size is given, heads are taken up to the first one in colour. Raises ValueError for a file of another size.
    """
    if image_size is None:
        heads = list(heads)
        sizes = [size for _, size in heads]
        _require_one_size(files, sizes)
        width, height = sizes[0]
    else:
        width, height = image_size, image_size
    return (1 if all(grey for grey, _ in heads) else 3), height, width


def decode(
    files: Sequence[Picture],
    shape: tuple[int, int, int],
    image_size: int | None,
    pixels: np.ndarray,
    each: Callable[[Callable[[int], Seen], Iterable[int]], Iterable[Seen]],
) -> list[Seen]:
    """Decodes files into `pixels` (N, C, H, W), as `read_images`; returns what was seen, without the images.

    `each` maps a function over numbers: `map`, or that of a pool of threads.
    """

    def one(index: int) -> Seen:
        seen = look(files[index], side=image_size)
        pixels[index] = fitted(seen.image, files[index], shape, image_size)
        return replace(seen, image=None)  # type: ignore[arg-type]  # let go of, for memory

    return list(each(one, range(len(files))))


@contextmanager
def quiet_pool() -> Iterator[ThreadPoolExecutor]:
    """Threads that decode; Pillow's warnings of metadata and of sizes, which are checked here, are not shown."""
    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, cores())) as pool:
        warnings.simplefilter("ignore")
        yield pool


def read_tiny_imagenet(root: Path, part: Literal["train", "test"]) -> Images:
    """A part of Tiny ImageNet, from `tiny-imagenet-200/` or straight from its `.zip` in `root`; the other is not read.

    Its `val` is our test, as its own test images have no public labels. Images are (3, 64, 64).
    """
    folder, archive = root / TINY, root / f"{TINY}.zip"
    if folder.is_dir():
        paths = [*folder.glob("*.txt"), *(folder.glob("train/*/images/*.JPEG") if part == "train" else ())]
        listed = [path.relative_to(root).as_posix() for path in paths]
        return _tiny_imagenet(part, listed, lambda name: root / name, str(folder))
    with reading(archive, "a zip archive"), zipfile.ZipFile(archive) as opened:
        return _tiny_imagenet(part, opened.namelist(), lambda name: _Member(opened, name), str(archive))


def _tiny_imagenet(part: str, listed: list[str], member: Callable[[str], Picture], where: str) -> Images:
    def lines(name: str) -> list[list[str]]:
        with reading(f"{where}, {name}", "a text of Tiny ImageNet"), member(f"{TINY}/{name}").open("rb") as f:
            return [line.split("\t") for line in f.read().decode().splitlines() if line]

    ids = sorted(line[0] for line in lines("wnids.txt"))
    words: dict[str, str] = {}
    notes: tuple[str, ...] = ()
    if f"{TINY}/words.txt" in listed:
        words = {line[0]: line[1].split(",")[0] for line in lines("words.txt") if len(line) > 1}
    else:
        notes = (f"{where} has no words.txt, so {NAMED_BY_NUMBER}",)
    shared = Counter(words.get(i, i) for i in ids)
    classes = tuple(words.get(i, i) if shared[words.get(i, i)] == 1 else f"{words.get(i, i)} ({i})" for i in ids)
    index_of = {wnid: number for number, wnid in enumerate(ids)}
    if part == "train":
        paths = [name for name in sorted(listed) if name.count("/") == 4 and name.endswith(".JPEG")]
        named = [(name, name.split("/")[2]) for name in paths if name.split("/")[1] == "train"]
    else:
        named = [(f"{TINY}/val/images/{x[0]}", x[1]) for x in lines("val/val_annotations.txt") if len(x) > 1]
    if any(".." in name or name.count("/") != 3 for name, _ in named if part == "test"):
        raise ValueError(f"{where}: val_annotations.txt names a file outside its own folder")
    for name, wnid in named:
        if wnid not in index_of:
            raise ValueError(f"{where}: {name} is of class {wnid!r}, which wnids.txt does not list")
    pixels = read_images([member(name) for name, _ in named], shape=(3, 64, 64))
    return Images(pixels, torch.tensor([index_of[wnid] for _, wnid in named]), classes, "tiny-imagenet", notes)


@cache
def pillow_formats() -> tuple[tuple[str, ...], frozenset[str]]:
    """(formats to read, their suffixes): all of Pillow's but PostScript, a program that would be executed."""
    try:
        from PIL import Image
    except ImportError as error:
        raise UnreadableError("image files need Pillow: pip install 'forward-only[images]'") from error
    Image.init()
    common = {"JPEG": 0, "PNG": 1}  # tried first, as a format without a mark of its own takes a whole attempt
    known = sorted(Image.ID, key=lambda name: common.get(name, len(common)))
    formats = tuple(name for name in known if name != "EPS" and name in Image.OPEN)
    opened = {*formats, "MPO"}  # two JPEGs in one file, as some cameras write; Pillow opens it as a JPEG
    return formats, frozenset(s for s, name in Image.registered_extensions().items() if name in opened)


def open_picture(file: Picture, stream: BinaryIO, most_pixels: int = MAX_PIXELS) -> Image:
    """The opened file, not decoded; ValueError for one that is no image or has too many pixels."""
    formats, _ = pillow_formats()
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(stream, formats=formats)
    except UnidentifiedImageError:
        stream.seek(0)
        why = "no format of Pillow's fits its bytes" if stream.read(1) else "it is empty"
        raise UnreadableError(f"{file}: damaged or not an image ({why})") from None
    if image.width * image.height > most_pixels:
        raise UnreadableError(f"{file}: {image.width} x {image.height} pixels, more than {most_pixels:,} are refused")
    return image


def picture_head(file: Picture) -> tuple[bool, tuple[int, int]]:
    """(is it grey, (width, height) as people see it) from the file's header."""
    with reading(file, "an image"), file.open("rb") as stream, open_picture(file, stream) as image:
        return is_grey(image), upright_size(image, stream)


def look(file: Picture, most_pixels: int = MAX_PIXELS, side: int | None = None) -> Seen:
    """The decoded picture as people see it, to be resized to squares of `side` pixels if that is given.

    ValueError, naming the file, for one that cannot be read.
    """
    with reading(file, "an image"), file.open("rb") as stream, open_picture(file, stream, most_pixels) as image:
        if image.mode in ("I", "F") and not is_grey(image):
            raise UnreadableError(f"{file}: it has 32 bits a channel, save it with 8")
        return as_seen(image, side)


def fitted(image: Image, file: Picture, shape: tuple[int, int, int], image_size: int | None) -> np.ndarray:
    """A seen picture as (C, H, W) uint8, resized and cut to a square if `image_size` is given."""
    channels, height, width = shape
    image = in_mode(image, "L" if channels == 1 else "RGB")
    if image_size is not None:
        image = _square(image, image_size)
    if image.size != (width, height):
        raise UnreadableError(f"{file}: it is {image.width} x {image.height} pixels, it must be {width} x {height}")
    return np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1)


def _square(image: Image, side: int) -> Image:
    """The centre square of an image, resized; whole pixels are cut out where the shorter side is right already."""
    from PIL import Image, ImageOps

    if min(image.size) != side:
        return ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _require_one_size(files: Sequence[Picture], sizes: list[tuple[int, int]]) -> None:
    usual = Counter(sizes).most_common(1)[0][0]
    for file, size in zip(files, sizes, strict=True):
        if size != usual:
            raise ValueError(
                f"{file}: it is {size[0]} x {size[1]} pixels, others are {usual[0]} x {usual[1]}: "
                "make them agree, or give --image-size N (image_size=N) to resize all"
            )


def _require_bright(files: Sequence[Picture], seen: Sequence[Seen]) -> None:
    """ValueError if the 16-bit pictures all hold so few bits that they would be nearly black."""
    deep = {k: each.brightest for k, each in enumerate(seen) if each.brightest is not None}
    if deep and max(deep.values()) < DARK:
        top = max(deep.values())
        raise ValueError(
            f"{files[next(iter(deep))]}: pictures of 16 bits a channel are taken as 0 to 65535, but none of the "
            f"{len(deep)} here is brighter than {top}, so they would be nearly black: "
            "spread their values over 0 to 65535, or save them with 8 bits"
        )


def _room(count: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Memory for `count` images; ValueError if the machine has not as much."""
    channels, height, width = shape
    needed, there = count * channels * height * width, None
    with suppress(ValueError, OSError, AttributeError):  # not on every system
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        if there is None or needed <= there:
            return np.empty((count, *shape), np.uint8)
    except (MemoryError, ValueError):
        pass
    have = "more than this machine has" if there is None else f"there are {_binary(there)}"
    raise ValueError(
        f"{count} images of {width} x {height} need {_binary(needed)} of memory, {have}: "
        "choose a smaller --image-size (image_size)"
    )


def _binary(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
