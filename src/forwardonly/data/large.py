"""Folders of images that are larger than memory: decoded as they go by, or once into a file beside the folder."""

from __future__ import annotations

import os
import shutil
import warnings
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from forwardonly.data.folders import list_folder, split_parts
from forwardonly.data.images import Splits
from forwardonly.data.indexed import Indexed
from forwardonly.data.inputs import Expected
from forwardonly.data.loading import divide
from forwardonly.data.pictures import common_shape, decode, picture_head, quiet_pool, read_with_changes
from forwardonly.data.reading import reading
from forwardonly.data.streams import as_it_is
from forwardonly.data.targets import Names
from forwardonly.names import as_path, whole_number
from forwardonly.system.cores import cores

LOOKED_AT = 64  # pictures that are decoded before a run, to say early what is wrong with them
SHARE = 0.5  # of the machine's memory that a folder may take decoded, before it is decoded as it goes by
BATCH = 64  # pictures that a process decodes at a time for the cache
WHOLE = 1 << 14  # bytes of a file up to which all are hashed; of larger ones three pieces
PIECE = 1 << 12
DECODING = 2  # to be raised whenever the same files give other pixels than before, so that no old cache is read


class PictureFiles:
    """Image files with labels, decoded by index; a torch data set whose batches are whole tensors.

    Args:
        root: folder that the files are below.
        files: their paths below it.
        labels: (N,) int64.
        shape: (C, H, W) of the result.
        image_size: side to resize to; None where all have the size.
    """

    def __init__(
        self,
        root: Path,
        files: Sequence[str] | np.ndarray,
        labels: Tensor,
        shape: tuple[int, int, int],
        image_size: int | None,
    ):
        self.root = root
        self.files = np.array(files)  # one block of memory, which processes share
        self.labels = labels
        self.shape = shape
        self.image_size = image_size

    def __len__(self) -> int:
        return len(self.files)

    def __getitems__(self, chosen: list[int]) -> tuple[Tensor, Tensor]:
        paths = [self.root / str(self.files[index]) for index in chosen]
        pixels = np.empty((len(paths), *self.shape), np.uint8)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of metadata
            decode(paths, self.shape, self.image_size, pixels, map)
        return torch.from_numpy(pixels), self.labels[chosen]

    def subset(self, indices: Tensor) -> Self:
        """Those at `indices` (M,)."""
        return type(self)(self.root, self.files[indices.numpy()], self.labels[indices], self.shape, self.image_size)


class Decoded:
    """Images in a file that is mapped into memory, (N, C, H, W), of which those at `rows` (M,) have `labels` (M,)."""

    def __init__(self, pixels: Tensor, rows: Tensor, labels: Tensor):
        self.pixels = pixels
        self.rows = rows
        self.labels = labels

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, chosen: list[int]) -> tuple[Tensor, Tensor]:
        return self.pixels.index_select(0, self.rows[chosen]), self.labels[chosen]

    def subset(self, indices: Tensor) -> Self:
        """Those at `indices` (M,)."""
        return type(self)(self.pixels, self.rows[indices], self.labels[indices])


class Folder(Indexed):
    """Images of a folder, which are read as they are needed.

    Args:
        data: the images.
        rows: (N,), their numbers among all of the folder.
        classes: names of the classes.
        shape: (C, H, W) of an image.
        name: of the folder.
        notes: what was assumed and passed over.
        key: a hash of all files, by which a resumed run knows them.
        workers: processes that read.
    """

    labels: Tensor

    def __init__(
        self,
        data: PictureFiles | Decoded,
        rows: Tensor,
        classes: tuple[str, ...],
        shape: tuple[int, ...],
        *,
        name: str,
        notes: tuple[str, ...],
        key: str,
        workers: int,
    ):
        expected = Expected(shape, "class", len(classes))
        about = [key, blake2b(rows.numpy().tobytes(), digest_size=16).hexdigest()]
        names = Names(classes, indices=True)
        super().__init__(data, expected, names, name, as_it_is, workers=workers, whole=True, about=about)
        self.rows, self.labels, self.notes, self.key = rows, data.labels, notes, key

    def require_labels(self) -> None:
        """Images of a folder have labels."""

    def subset(self, indices: Tensor, /) -> Self:
        """The images at `indices` (M,) int64, in that order."""
        return self.of(self.data.subset(indices), self.rows[indices], self.workers)

    def of(self, data: PictureFiles | Decoded, rows: Tensor, workers: int) -> Self:
        """Other images of the same folder."""
        about: dict[str, Any] = {"name": self.name, "notes": self.notes, "key": self.key}
        return type(self)(data, rows, self._classes, self.expected.shape, workers=workers, **about)


def stream(
    folder: str | Path,
    *,
    image_size: int | None = None,
    validation: int = 0,
    seed: int = 0,
    cache: bool = False,
    workers: int | None = None,
) -> Splits:
    """A folder of images, as `load` reads it, without holding it in memory: the same splits, in the same order.

    Args:
        folder: has a directory for each class, or such folders for training, validation and testing.
        image_size: side in pixels to which images are resized and cut; needed where they differ.
        validation: how many training images are held out, as by `load`.
        seed: of what is held out.
        cache: decode all once into a file beside the folder, `.FOLDER-KEY.npy`, and read that; its key is made of the
            files' names, sizes, times and content and the version of Pillow, so that a changed folder is decoded anew.
            Else images are decoded each time.
        workers: processes that decode; by default one for each processor, at most 8.

    Raises:
        ValueError: as `load`, or there is no room on the disk for the cache.
    """
    folder = as_path("folder", folder)
    image_size = None if image_size is None else whole_number("image_size", image_size, 1)
    validation, seed = whole_number("validation", validation, 0), whole_number("seed", seed, 0)
    workers = None if workers is None else whole_number("workers", workers, 0)
    parts = read_streamed(folder, image_size=image_size, cache=cache, workers=workers)
    splits: Any = divide(*parts, validation=validation, limit=None, seed=seed)
    return Splits(*splits)


def read_streamed(
    folder: str | Path,
    *,
    image_size: int | None,
    cache: bool = False,
    workers: int | None = None,
    fewest: int = 2,
) -> tuple[Folder, Folder | None, Folder | None]:
    """What `read_folder` reads, decoded as it goes by; the arguments are those of `stream`."""
    root = Path(folder).expanduser()
    if not os.path.isdir(root):
        raise ValueError(f"{root} is not a folder of images.")
    workers = min(8, cores()) if workers is None else workers
    found = list_folder(root, fewest=fewest)
    name = root.resolve().name
    shape = _shape(found.files, image_size)
    changes, seen = _look(found.files, shape, image_size)
    files = [str(file.relative_to(root)) for file in found.files]
    key = _key(root, files, (shape, image_size))
    labels, rows = torch.tensor(found.labels), torch.arange(len(files))
    everything = Folder(
        PictureFiles(root, files, labels, shape, image_size),
        rows,
        found.classes,
        shape,
        name=name,
        notes=found.notes(name, changes, seen),
        key=key,
        workers=workers,
    )
    if cache:
        with reading(root, "a folder"):
            times = [os.stat(file).st_mtime_ns for file in found.files]
        everything = decoded_once(everything, root.resolve().parent / f".{name}-{_decoding(f'{key} {times}')}.npy")
    return split_parts(everything, found.where)


def decoded_once(pictures: Folder, path: Path) -> Folder:
    """The same images, read from the file `path`, into which they are decoded where it is not there.

    Raises:
        ValueError: there is no room for the file, or an image cannot be read.
    """
    if not _is_cache(path, (len(pictures), *pictures.shape)):
        _write(path, pictures)
    pixels = torch.from_numpy(np.load(path, mmap_mode="c"))  # writable, as PyTorch wants it, but nobody writes
    numbers = torch.arange(len(pictures))
    return pictures.of(Decoded(pixels, numbers, pictures.labels), pictures.rows, workers=0)


def larger_than_memory(folder: str | Path, image_size: int | None) -> bool:
    """Whether a folder's images, resized to `image_size`, would fill more than half of this machine's memory.

    False where no size is given, or what is there cannot be told.
    """
    folder = Path(folder).expanduser()
    if image_size is None or not os.path.isdir(folder):
        return False
    try:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        files = list_folder(folder, fewest=1).files
    except (ValueError, OSError, AttributeError):  # `load` says what is wrong with the folder
        return False
    return 3 * image_size**2 * len(files) > SHARE * there


def _shape(paths: list[Path], image_size: int | None) -> tuple[int, int, int]:
    """(C, H, W) of all, after a look at every head, so that a file that is no image is refused before training."""
    with quiet_pool() as pool:
        return common_shape(paths, list(pool.map(picture_head, paths)), image_size)


def _look(paths: list[Path], shape: tuple[int, int, int], image_size: int | None) -> tuple[Counter[str], int]:
    """How a few pictures were changed in reading, and how many they are.

    Raises ValueError, as `load` does, if one of them cannot be read, or they are nearly black.
    """
    every = max(1, len(paths) // LOOKED_AT)
    few = paths[::every][:LOOKED_AT]
    return read_with_changes(few, shape=shape, image_size=image_size)[1], len(few)


def _key(root: Path, files: Sequence[str], options: Any) -> str:
    """A hash of the files' names and content, and of how they are read; a copy of the folder has the same."""
    found = blake2b(repr(options).encode(), digest_size=16)
    with quiet_pool() as pool:
        for file, content in zip(files, pool.map(_content, [root / file for file in files]), strict=True):
            found.update(file.encode() + b"\0" + content)
    return found.hexdigest()


def _content(path: Path) -> bytes:
    """A hash of a file's size and bytes; of a large file's first, middle and last bytes, to read little of it."""
    with reading(path, "an image"), path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        found = blake2b(size.to_bytes(8, "little"), digest_size=16)
        if size <= WHOLE:
            found.update(stream.read())
        else:
            for start in (0, (size - PIECE) // 2, size - PIECE):
                stream.seek(start)
                found.update(stream.read(PIECE))
        return found.digest()


def _decoding(key: str) -> str:
    """A hash of that and of what decodes: this library and Pillow, which another version may change in a bit."""
    import PIL

    return blake2b(f"{key} {DECODING} {PIL.__version__}".encode(), digest_size=8).hexdigest()


def _is_cache(path: Path, shape: tuple[int, ...]) -> bool:
    """Whether there is a complete cache of that shape."""
    try:
        cached = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return False
    return bool(cached.shape == shape and cached.dtype == np.uint8)


def _write(path: Path, pictures: Indexed) -> None:
    """Decodes all pictures into a file, under a temporary name until it is whole."""
    shape = (len(pictures), *pictures.shape)
    needed = int(np.prod(shape, dtype=object))
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        if (free := shutil.disk_usage(path.parent).free) < needed:
            raise ValueError(
                f"{path}: the decoded images need {needed >> 20} MiB and the disk has {free >> 20}: make room, or "
                "leave out the cache."
            )
        pixels = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        start = 0
        for batch, _ in pictures.in_order(BATCH):
            assert isinstance(batch, Tensor)
            pixels[start : start + len(batch)] = batch.numpy()
            start += len(batch)
        pixels.flush()
        del pixels
        temporary.replace(path)
    except OSError as problem:
        raise ValueError(f"Cannot write the decoded images to {path}: {problem.strerror or problem}.") from None
    finally:
        temporary.unlink(missing_ok=True)
