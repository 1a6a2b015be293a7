"""Data that are read batch by batch, and streams whose batches go by in their own order.

Batches are (inputs, targets), as tensors. A stream is recognised by its own words; `indexed.py` has data sets with a
length, which are read in the order of the run.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from forwardonly.data.inputs import Expected, Inputs, names_in, parts, read_inputs
from forwardonly.data.pairs import Pair, Raw, chained, concatenated, is_single, joined, type_of
from forwardonly.data.targets import Names, read_targets
from forwardonly.names import whole_number
from forwardonly.targets import Kind

SAMPLE = 5_000  # examples that statistics of a stream's inputs and numbers are taken from


def _no_seed(turn: int, batch: int) -> None:
    pass


class Stream:
    """Data that are read batch by batch.

    Args:
        expected: what the network takes and learns.
        names: of the classes.
        name: in messages.
        split: how an item of the data becomes (inputs, targets).
    """

    def __init__(self, expected: Expected, names: Names, name: str, split: Callable[[Any], Raw]):
        self.expected = expected
        self.names = names
        self.name = name
        self.split = split
        self.notes: tuple[str, ...] = ()
        self._called: tuple[str, ...] | None = None
        self._renumbered: Tensor | None = None
        self._whose = ""

    @property
    def kind(self) -> Kind:
        """What the targets are."""
        return self.expected.kind

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return self.expected.shape

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, of which labels are the indices."""
        return self._classes if self._called is None else self._called

    @property
    def _classes(self) -> tuple[str, ...]:
        if self.kind == "token":
            return ()
        return self._known().names or tuple(map(str, range(self.expected.outputs)))

    def named_as(self, names: Sequence[str], whose: str) -> Self:
        """The same data with labels that are indices into `names`; `whose` says in an error what has those.

        A class that is not among them is refused when a label of it is read.
        """
        if self.kind != "class" or self.classes == tuple(names):
            return self
        index = {name: number for number, name in enumerate(names)}
        self._renumbered = torch.tensor([index.get(name, -1) for name in self._classes])
        self._called, self._whose = tuple(names), whose
        return self

    def words(self) -> dict[str, Any]:
        """What a resumed run compares, besides the batches that it reads again."""
        raise NotImplementedError

    def digest(self) -> str:
        """A hash of `words`."""
        text = json.dumps({**self.words(), "classes": self.classes}, default=str)
        return blake2b(text.encode(), digest_size=16).hexdigest()

    def in_order(self, batch_size: int) -> Iterator[tuple[Inputs, Tensor | None]]:
        """(inputs, targets) of one batch after the other; targets are None where the data have none."""
        raise NotImplementedError

    def inputs_in_order(self, batch_size: int) -> Iterator[Inputs]:
        """The inputs alone, as `in_order`."""
        return (inputs for inputs, _ in self.in_order(batch_size))

    def sample(self, count: int) -> Pair:
        """About `count` examples, as one batch, to take statistics from."""
        raise NotImplementedError

    def read(self, raw: Raw, what: str) -> Pair:
        """A batch of what came as tensors; `what` names it in errors."""
        inputs, targets = raw
        if self.expected.features is None:  # the first table's columns say the order for those that follow
            self.expected = self.expected._replace(features=names_in(inputs))
        read = read_inputs(inputs, self.expected, f"inputs of {what}")
        count = len(parts(read)[0])
        if count == 0:
            raise ValueError(f"{what} is empty: leave empty batches out.")
        if targets is None and self.kind == "token" and isinstance(read, Tensor):
            return Pair(read[:, :-1], read[:, 1:])
        given = range(count) if targets is None and not self.expected.labelled else targets
        if given is None:
            return Pair(read, None)
        labels, _ = read_targets(given, self.expected, self._known(), f"targets of {what}")
        if len(labels) != count:
            raise ValueError(f"{what} has {count} inputs but {len(labels)} targets: each input needs one.")
        if self._renumbered is not None:
            own, labels = labels, self._renumbered[labels]
            if bool((labels < 0).any()):
                strange = self._classes[int(own[labels < 0][0])]
                raise ValueError(f"{what} has the class {strange!r}, which {self._whose} does not have.")
        return Pair(read, labels)

    def _known(self) -> Names:
        """The names of the classes, which no batch can find by itself."""
        if self.kind != "class" or self.names.names is not None:
            return self.names
        if self.expected.names is not None:
            return Names(self.expected.names)
        return Names(range(self.expected.outputs), assumed=True)


class Place(NamedTuple):
    """Where a run stands in a stream: pass, batches of it that were read, a hash of these, the stream's own state."""

    turn: int = 0
    batch: int = 0
    seen: str = ""
    state: Any = None


class Passing(Stream):
    """A stream: batches, or single examples, in their own order, with or without an end.

    Args:
        data: an iterable, or a function without arguments that makes one.
    """

    def __init__(self, data: Any, expected: Expected, names: Names, name: str, split: Callable[[Any], Raw]):
        super().__init__(expected, names, name, split)
        self.data = data
        self.makes = callable(data) and not hasattr(data, "__iter__")
        self.once = not self.makes and isinstance(data, Iterator)
        """Whether it ends for good after one pass, as a generator does."""
        self.batch_size: int | None = None
        """Examples that make a batch, where the stream gives single ones."""
        self.place = Place()
        self._ahead: list[Pair] = []  # read to look at, and not yet given
        self._source: Iterator[Pair] | None = None
        self._spent = False
        self._seed: Callable[[int, int], object] = _no_seed

    @property
    def length(self) -> int | None:
        """Batches of a pass, if the stream says it."""
        try:
            count = len(self.data)
        except TypeError:  # also of a DataLoader whose data set has no length
            return None
        return count if self.batch_size is None else -(-count // self.batch_size)

    def words(self) -> dict[str, Any]:
        return {"type": type_of(self.data), "length": self.length, "batch": self.batch_size}

    def open(self, batch_size: int, seed: Callable[[int, int], object] = _no_seed) -> None:
        """Begins the first pass, and sees whether the items are batches; else `batch_size` examples will be one.

        `seed` is called with the numbers of the pass and of the batch before each is read, for loaders that shuffle and
        transforms that draw.

        Raises:
            ValueError: the stream gives nothing, or something that is no batch.
        """
        if self.once and self._spent:
            raise ValueError(
                f"{self.name} has been read and cannot begin again: give a list, a DataLoader, or a function that "
                "makes the stream."
            )
        self._seed, self.place, self._ahead = seed, Place(), []
        items = self._items()
        try:
            first = next(items)
        except StopIteration:
            raise ValueError(f"{self.name} gave nothing: there is no batch in it.") from None
        self.batch_size = batch_size if is_single(self.split(first), self.expected) else None
        self._source = self._pairs(itertools.chain([first], items))

    def sample(self, count: int) -> Pair:
        """The first batches, up to about `count` examples; they are given again when the run begins."""
        assert self._source is not None
        while sum(len(parts(pair.inputs)[0]) for pair in self._ahead) < count:
            if (pair := next(self._source, None)) is None:
                break
            self._ahead.append(pair)
        return concatenated(self._ahead)

    def next(self) -> Pair:
        """The next batch of the run; where a pass ends, the next one begins.

        Raises:
            ValueError: the stream ended and cannot begin again, gave nothing, or has not the length that it says.
        """
        pair = self._next()
        if pair is None:
            if self.once:
                raise ValueError(
                    f"{self.name} ended after {self.place.batch} batches and cannot begin again: train fewer steps, or "
                    "give a list, a DataLoader, or a function that makes the stream."
                )
            self._require_length(self.place.batch)
            self.place = Place(self.place.turn + 1)
            self._source = self._pairs(self._items())
            if (pair := self._next()) is None:
                raise ValueError(f"{self.name} gave nothing in pass {self.place.turn}: it must begin anew each time.")
        done = self.place.batch + 1
        self.place = Place(self.place.turn, done, chained(self.place.seen, pair))
        if done == self.length and self._next() is not None:
            raise ValueError(
                f"{self.name} says that it has {done} batches and gives more: mend its length, or give steps."
            )
        return pair

    def where(self) -> Place:
        """The place to resume from."""
        own = self.data.state_dict() if self._has_state and not self._ahead else None
        try:
            json.dumps(own)
        except TypeError:
            own = None
        return self.place._replace(state=own)

    def resume(self, place: Sequence[Any]) -> None:
        """Goes to where a run stood: by the stream's own state if it has one, else by reading the pass up to there.

        Raises:
            ValueError: the batches up to there are not those that the run had.
        """
        wanted = Place(*place)
        if self._has_state and wanted.state is not None:
            self.data.load_state_dict(wanted.state)
            self.place, self._ahead = wanted, []
            self._source = self._pairs(self._items())
            return
        if wanted.turn > 0:
            self.place, self._ahead = Place(wanted.turn), []
            self._source = self._pairs(self._items())
        while self.place.batch < wanted.batch and self.place.turn == wanted.turn:
            self.next()
        if self.place.turn != wanted.turn or self.place.seen != wanted.seen:
            raise ValueError(
                f"{self.name} gives other batches than when the run was stopped: a stream can be resumed if it gives "
                "the same batches again."
            )

    def in_order(self, batch_size: int) -> Iterator[tuple[Inputs, Tensor | None]]:
        """One pass.

        Raises:
            ValueError: the stream has been read and cannot begin again, or gives nothing.
        """
        if self._source is None:
            self.open(whole_number("batch_size", batch_size, 1))
        try:
            while (pair := self._next()) is not None:
                yield pair
        finally:  # also where a batch is refused: the next pass is a new one
            self._source = None

    @property
    def _has_state(self) -> bool:
        return hasattr(self.data, "state_dict") and hasattr(self.data, "load_state_dict")

    def _next(self) -> Pair | None:
        if self._ahead:
            return self._ahead.pop(0)
        assert self._source is not None
        return next(self._source, None)

    def _items(self) -> Iterator[Any]:
        turn = self.place.turn
        self._spent = True
        self._seed(turn, 0)
        for owner in (self.data, getattr(self.data, "sampler", None)):
            if (shuffle := getattr(owner, "set_epoch", None)) is not None:
                shuffle(turn)
        return iter(self.data() if self.makes else self.data)

    def _pairs(self, items: Iterator[Any]) -> Iterator[Pair]:
        turn = self.place.turn
        where = f"{self.name}, pass {turn}," if turn else f"{self.name},"
        for number in itertools.count():
            if number:  # a pass was seeded when it began
                self._seed(turn, number)
            if self.batch_size is None:
                group = list(itertools.islice(items, 1))
                raw = self.split(group[0]) if group else None
            else:
                group = list(itertools.islice(items, self.batch_size))
                raw = joined([self.split(item) for item in group]) if group else None
            if raw is None:
                return
            yield self.read(raw, f"{where} batch {number}")

    def _require_length(self, done: int) -> None:
        if self.length is not None and done < self.length:
            raise ValueError(
                f"{self.name} says that it has {self.length} batches and gave {done}: mend its length, or give steps."
            )


def as_it_is(items: Any) -> Any:
    """A batch that needs no joining or splitting."""
    return items
