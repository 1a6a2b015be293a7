"""Threads: several batches in flight in one process, each at a different block.

No gradient comes back to a block, so once it has learned from a batch it is free for the next. Two threads that split
every operation wait for each other at each, and small feature maps split badly; here each thread computes its own batch
at another block. Every block sees the batches in order and with the same weights as with one worker, so the results are
bit-identical to those of one worker with as many threads as each of these has.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Self

import torch
from torch import Tensor

from forwardonly.training.feed import Draft
from forwardonly.training.progress import Position
from forwardonly.training.session import Session
from forwardonly.training.step import train_step
from forwardonly.training.strategies.base import Strategy

PREPARING = -1  # the index before the first block: the batch is being made
ALL = float("inf")  # a batch that has finished has left every block

Slot = Callable[[int], AbstractContextManager[None]]
"""For the index of a block: a context that the batch enters as soon as the batch before it has left that block."""


class Threads(Strategy):
    """As many batches in flight as there are workers, each at a different block."""

    def __init__(self, session: Session):
        super().__init__(session)
        self.workers = Workers(session.config.workers)

    @contextmanager
    def epoch(self, position: Position) -> Iterator[None]:
        with self.workers:
            yield

    def step(self, batch: Draft, position: Position) -> Tensor:
        losses = self.losses()
        self.workers.begin(partial(self._carry, batch, position, losses))
        return losses

    def finish(self) -> None:
        self.workers.finish()

    def _carry(self, batch: Draft, position: Position, losses: Tensor, slot: Slot) -> None:
        """Takes one batch through all blocks, and writes its losses."""
        session = self.session
        started = session.schedule.started(position.run_step)
        updates = session.updates[:started]

        @contextmanager
        def at_its_rate(index: int) -> Iterator[None]:
            with slot(index):
                session.schedule.set_rate([updates[index]], position.run_step)
                yield

        with slot(PREPARING):
            first = session.feed(batch, position)
        context = session.context(seed=None)._replace(slot=at_its_rate)
        losses[:started] = train_step(self.row[:started], updates, first, context)[0]


class Workers:
    """A context in which `count` batches are in flight at a time; at its end all have finished.

    The threads that PyTorch may use are divided among the workers meanwhile. Memory does not grow with depth, but as
    many blocks compute at once as there are workers.
    """

    def __init__(self, count: int):
        self.count = count
        self._moved = threading.Condition()

    def __enter__(self) -> Self:
        self._going: deque[Future[None]] = deque()
        self._begun = 0
        self._left: dict[int, float] = {}  # the last block that each batch in flight has left
        self._last = ALL  # the number of the last batch that may continue
        self._threads = torch.get_num_threads()
        torch.set_num_threads(max(1, self._threads // self.count))  # before the pool's own threads start
        self._pool = ThreadPoolExecutor(self.count)
        return self

    def __exit__(self, kind: type[BaseException] | None, *problem: object) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self._stop_after(-1)
            self._pool.shutdown(cancel_futures=True)
            torch.set_num_threads(self._threads)

    def begin(self, work: Callable[[Slot], None]) -> None:
        """Submits the next batch: calls `work` with its slots. Waits while more than `count` batches are in flight."""
        while len(self._going) > self.count:
            self._going.popleft().result()
        self._going.append(self._pool.submit(self._work, work, self._begun))
        self._begun += 1

    def finish(self) -> None:
        """Waits until all batches have finished.

        Raises:
            Exception: the error that stopped one of them; those behind it were stopped, too.
        """
        while self._going:
            self._going.popleft().result()

    def _work(self, work: Callable[[Slot], None], number: int) -> None:
        try:
            work(partial(self._slot, number))
        except BaseException:
            self._stop_after(number)
            raise
        self._leave(number, ALL)

    def _stop_after(self, number: int) -> None:
        with self._moved:
            self._last = min(self._last, number)
            self._moved.notify_all()

    def _leave(self, number: int, index: float) -> None:
        with self._moved:
            self._left[number] = index
            if index == ALL:
                self._left.pop(number - 1, None)
            self._moved.notify_all()

    @contextmanager
    def _slot(self, number: int, index: int) -> Iterator[None]:
        before = ALL if number == 0 else PREPARING - 1
        with self._moved:
            self._moved.wait_for(lambda: self._left.get(number - 1, before) >= index or number > self._last)
            if number > self._last:
                raise RuntimeError("A batch before this one was stopped.")
        yield
        self._leave(number, index)
