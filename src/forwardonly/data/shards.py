"""WebDataset shards: tar archives in which the files of one example have one name and different suffixes."""

from __future__ import annotations

import glob
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from forwardonly.data.adapting import InMemory
from forwardonly.data.formats import read_npy
from forwardonly.data.pictures import fitted, look, pillow_formats
from forwardonly.data.reading import UnreadableError, reading


class Shards(IterableDataset[tuple[Any, Any]]):
    """Examples (input, label) of shards, in their order or shuffled; a stream that `fo.fit` takes.

    Give it to a `DataLoader` to decode in worker processes, which share the shards. Made by `shards`.
    """

    def __init__(
        self,
        paths: Sequence[str],
        shape: tuple[int, int, int] | None,
        classes: Sequence[Any] | None,
        target: str,
        shuffle: int,
    ):
        self.paths = list(paths)
        self.shape = shape
        self.classes = None if classes is None else [str(name) for name in classes]
        self.target = target
        self.shuffle = shuffle
        self.turn = 0

    def set_epoch(self, turn: int) -> None:
        """Called before each pass, whose number decides the order of a shuffled one."""
        self.turn = turn

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        order, samples = list(self.paths), self._samples
        if self.shuffle:
            generator = random.Random(self.turn)
            generator.shuffle(order)
            mixed = _webdataset().shuffle(self.shuffle, rng=generator)
            yield from map(self._example, mixed(samples(order)))
        else:
            yield from map(self._example, samples(order))

    def _samples(self, order: list[str]) -> Iterator[dict[str, Any]]:
        """The files of each example by their suffixes, as bytes, of this worker's share of the shards."""
        tar, worker = _webdataset().tariterators, get_worker_info()
        for path in order if worker is None else order[worker.id :: worker.num_workers]:
            with reading(path, "a tar archive"), open(path, "rb") as opened:
                yield from tar.group_by_keys(tar.tar_file_expander([{"url": path, "stream": opened}]))

    def _example(self, sample: dict[str, Any]) -> tuple[Any, Any]:
        where = f"{sample['__url__']}:{sample['__key__']}"
        if self.target not in sample:
            found = ", ".join(sorted(key for key in sample if not key.startswith("__")))
            raise UnreadableError(f"{where} has no {self.target!r} for a label, but {found}: give target='...'.")
        label = sample[self.target].decode(errors="replace").strip()
        for suffix, content in sample.items():
            if suffix.startswith("__") or suffix == self.target:
                continue
            if suffix == "npy":
                array = read_npy(InMemory(where, content).open("rb"), len(content), where)
                return torch.from_numpy(array.copy()), int(label) if label.lstrip("-").isdecimal() else label
            if f".{suffix.lower()}" in pillow_formats()[1]:
                return self._picture(where, content), int(label) if label.lstrip("-").isdecimal() else label
        raise UnreadableError(f"{where} has neither a picture nor a .npy beside {self.target!r}.")

    def _picture(self, where: str, content: bytes) -> torch.Tensor:
        if self.shape is None:
            raise UnreadableError(f"{where} is a picture: give shape=(channels, height, width) to read pictures at.")
        file = InMemory(where, content)
        side = self.shape[1] if self.shape[1] == self.shape[2] else None
        return torch.from_numpy(np.array(fitted(look(file, side=side).image, file, self.shape, side), order="C"))


def shards(
    paths: str | Path | Sequence[str | Path],
    *,
    shape: tuple[int, int, int] | None = None,
    classes: Sequence[Any] | None = None,
    target: str = "cls",
    shuffle: int = 0,
) -> Shards:
    """WebDataset shards on this machine as a stream of examples; nothing in them is unpickled or executed.

    Each example is a picture of any Pillow format, or a `.npy` array, and a text file with its label. Of other shards,
    make a `webdataset.WebDataset` by yourself, with its own decoders, and give that to `fo.fit`.

    Args:
        paths: of tar archives: one, several, or a pattern such as "train-{0000..0099}.tar" or "train-*.tar".
        shape: (channels, height, width) at which pictures are read; a square is resized to and cut.
        classes: names of the classes in the order of the whole numbers in the label files, or the words there.
        target: suffix of the label file.
        shuffle: examples of a buffer from which the next is drawn, after the order of the shards was; 0 to leave both.

    Raises:
        ValueError: there is no such file, or `webdataset` is not installed.
    """
    expand = _webdataset().shardlists.expand_urls
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    found: list[str] = []
    for one in map(str, given):
        for name in expand(one):
            matches = sorted(glob.glob(name)) if glob.has_magic(name) else [name] if Path(name).is_file() else []
            if not matches:
                raise ValueError(f"{name}: there is no such shard; shards are tar archives on this machine.")
            found += matches
    return Shards(found, shape, classes, target, shuffle)


def _webdataset() -> Any:
    try:
        import webdataset
    except ImportError:
        raise ValueError("Shards need webdataset: pip install 'forward-only[webdataset]'") from None
    return webdataset
