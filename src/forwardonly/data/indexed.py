"""Data sets that are read by index, batch by batch, in the order of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from forwardonly.data.inputs import Expected, Inputs
from forwardonly.data.pairs import Pair, Raw, chained_all, concatenated, fingerprint, joined, type_of
from forwardonly.data.streams import Stream, as_it_is
from forwardonly.data.targets import Names
from forwardonly.names import whole_number


class Indexed(Stream):
    """A data set with a length, whose examples are read by index: a torch `Dataset`, a Hugging Face one, picture files.

    Args:
        data: has `len` and gives one example by its index, or several from `__getitems__`.
        workers: processes that read.
        whole: whether `__getitems__` gives a batch (inputs, targets) and not a list of examples.
        about: the data set's own words, by which a resumed run knows it; else its type, length and two examples.
        held: whether all of it lies in memory, so that a resumed run compares every example.
    """

    def __init__(
        self,
        data: Any,
        expected: Expected,
        names: Names,
        name: str,
        split: Callable[[Any], Raw],
        *,
        workers: int = 0,
        whole: bool = False,
        about: Any = None,
        held: bool = False,
    ):
        super().__init__(expected, names, name, split)
        self.data = data
        self.workers = workers
        self.whole = whole
        self.about = about
        self.held = held
        self.labels: Tensor | None = None
        """The labels of all, where they are known without reading."""
        if len(data) == 0:
            raise ValueError(f"{name} is empty: there is no example to learn from.")

    def __len__(self) -> int:
        return len(self.data)

    def words(self) -> dict[str, Any]:
        if self.about is not None:
            return {"about": self.about}
        if self.held:
            pairs = self.fetch(torch.arange(len(self)).split(256))  # other pieces would make another hash
            return {"length": len(self), "all": chained_all(pairs)}
        ends = next(self.fetch([torch.tensor([0, len(self) - 1])]))
        return {"type": type_of(self.data), "length": len(self), "first and last": fingerprint(ends)}

    def fetch(self, order: Iterable[Tensor]) -> Iterator[Pair]:
        """The examples at each of the `order`'s indices (B,), a batch each."""
        batches = [chosen.tolist() for chosen in order]
        loader = DataLoader(
            self.data,
            batch_sampler=batches,
            num_workers=self.workers,
            collate_fn=as_it_is,
            prefetch_factor=2 if self.workers else None,
        )
        for chosen, items in zip(batches, loader, strict=True):
            raw = items if self.whole else joined([self.split(item) for item in items])
            yield self.read(raw, f"{self.name}, the batch of examples {chosen[0]} and others,")

    def in_order(self, batch_size: int) -> Iterator[tuple[Inputs, Tensor | None]]:
        yield from self.fetch(torch.arange(len(self)).split(whole_number("batch_size", batch_size, 1)))

    def sample(self, count: int) -> Pair:
        count = min(count, len(self))
        chosen = torch.arange(count) * len(self) // count  # spread evenly: files are sorted by class
        return concatenated(list(self.fetch(chosen.split(256))))
