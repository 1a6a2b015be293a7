"""Workers: threads of one process that carry batches down the row, one behind the other.

No gradient comes back to a block, so one that has learned from a batch is free for the next. Two threads that split
every operation between them wait for each other at each, and small maps divide badly; here each computes its own batch
at another block. Blocks meet the batches in order and each in the same weights as ever, so the bits are those of one
worker with as many threads as each of these has.
"""

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Self

import torch

from forwardonly.bodies.dropout import drops
from forwardonly.network.network import Network
from forwardonly.training.config import TrainingConfig
from forwardonly.training.distributed.team import Team
from forwardonly.training.step import check_shared

PREPARING = -1  # the place before the first block

Turn = Callable[[int], AbstractContextManager[None]]
"""For a place in the row: a context in which the batch is there, alone, as soon as all batches before it have been."""


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
        self._passed: Counter[int] = Counter()  # how many batches each place has seen
        self._last = float("inf")  # the number of the last batch that may go on
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

    def begin(self, work: Callable[[Turn], None]) -> None:
        """Has a worker carry the next batch: `work` is given its turns. Waits while more than enough are under way."""
        while len(self._going) > self.count:
            self._going.popleft().result()
        self._going.append(self._pool.submit(self._carry, work, self._begun))
        self._begun += 1

    def finish(self) -> None:
        """All batches have arrived when this returns.

        Raises:
            Exception: what stopped one of them; those behind it were stopped, too.
        """
        while self._going:
            self._going.popleft().result()

    def _carry(self, work: Callable[[Turn], None], number: int) -> None:
        try:
            work(partial(self._turn, number))
        except BaseException:
            self._stop_after(number)
            raise

    def _stop_after(self, number: int) -> None:
        with self._moved:
            self._last = min(self._last, number)
            self._moved.notify_all()

    @contextmanager
    def _turn(self, number: int, place: int) -> Iterator[None]:
        with self._moved:
            self._moved.wait_for(lambda: self._passed[place] == number or number > self._last)
            if number > self._last:
                raise RuntimeError("A batch before this one was stopped.")
        yield
        with self._moved:
            self._passed[place] += 1
            self._moved.notify_all()


def check_workers(network: Network, config: TrainingConfig, device: torch.device, team: Team) -> None:
    """Raises ValueError unless the network's blocks can be trained by the config's workers."""
    count = config.workers
    if count == 1:
        return
    check_shared(network, config.schedule, count, "workers", "choose 1")
    never = {
        "several processes": not team.alone,
        "a GPU": device.type != "cpu",
        "a memory budget": config.memory_budget is not None,
        "compiled blocks": config.compile,
        "dropout, whose draws depend on who is first,": any(map(drops, network.modules())),
    }
    for what, so in never.items():
        if so:
            raise ValueError(f"{count} workers do not go together with {what}: choose 1.")
