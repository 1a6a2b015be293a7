"""Threads of one process that carry batches down the row, one behind the other.

No gradient comes back to a block, so one that has learned from a batch is free for the next. Two threads that split
every operation between them wait for each other at each, and small feature maps divide badly; here each computes its
own batch at another block. Blocks meet the batches in order and each in the same weights as ever, so the bits are those
of one worker with as many threads as each of these has.
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

from forwardonly.training.progress import Position
from forwardonly.training.session import Session
from forwardonly.training.step import train_step
from forwardonly.training.strategies.base import Strategy

PREPARING = -1  # the place before the first block
ALL = float("inf")  # a batch that has arrived has left every place

Slot = Callable[[int], AbstractContextManager[None]]
"""For a place in the row: a context in which the batch is there alone, as soon as the batch before it has left."""


class Threads(Strategy):
    """As many batches under way as there are workers, each at another block."""

    def __init__(self, session: Session):
        super().__init__(session)
        self.workers = Workers(session.config.workers)

    @contextmanager
    def epoch(self, position: Position) -> Iterator[None]:
        with self.workers:
            yield

    def step(self, batch: Tensor, position: Position) -> Tensor:
        losses = self.losses()
        self.workers.begin(partial(self._carry, batch, position, losses))
        return losses

    def finish(self) -> None:
        self.workers.finish()

    def _carry(self, batch: Tensor, position: Position, losses: Tensor, slot: Slot) -> None:
        """Takes one batch down the row, and writes its losses."""
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
    """A context in which so many batches are under way at a time; at its end all have arrived.

    The threads that PyTorch may use are divided among them meanwhile. Memory is flat in depth as ever, but there are as
    many blocks at work as workers.
    """

    def __init__(self, count: int):
        self.count = count
        self._moved = threading.Condition()

    def __enter__(self) -> Self:
        self._going: deque[Future[None]] = deque()
        self._begun = 0
        self._left: dict[int, float] = {}  # the last place that each batch under way has left
        self._last = ALL  # the number of the last batch that may go on
        self._threads = torch.get_num_threads()
        torch.set_num_threads(max(1, self._threads // self.count))  # before the pool's own begin
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
        """Has a worker carry the next batch: `work` is given its slots. Waits while more than enough are under way."""
        while len(self._going) > self.count:
            self._going.popleft().result()
        self._going.append(self._pool.submit(self._work, work, self._begun))
        self._begun += 1

    def finish(self) -> None:
        """All batches have arrived when this returns.

        Raises:
            Exception: what stopped one of them; those behind it were stopped, too.
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

    def _leave(self, number: int, place: float) -> None:
        with self._moved:
            self._left[number] = place
            if place == ALL:
                self._left.pop(number - 1, None)
            self._moved.notify_all()

    @contextmanager
    def _slot(self, number: int, place: int) -> Iterator[None]:
        before = ALL if number == 0 else PREPARING - 1
        with self._moved:
            self._moved.wait_for(lambda: self._left.get(number - 1, before) >= place or number > self._last)
            if number > self._last:
                raise RuntimeError("A batch before this one was stopped.")
        yield
        self._leave(number, place)
