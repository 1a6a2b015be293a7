"""The layer pipeline: blocks spread over processes, which receive a batch, update their blocks and send it on.

No gradient crosses a block, so no backward pass crosses a process. Once the first batches have filled the pipeline, all
processes work at the same time, each on its own batch, and every batch sees the same weights as in a single process.
"""

import copy
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from forwardonly.network.block import Block
from forwardonly.training.batch import Batch
from forwardonly.training.config import TrainingConfig
from forwardonly.training.distributed.messages import Pipe
from forwardonly.training.feed import Draft
from forwardonly.training.progress import Position
from forwardonly.training.session import Session
from forwardonly.training.step import Context, train_step
from forwardonly.training.strategies.base import Strategy
from forwardonly.training.update import Update

T = TypeVar("T")


class Pipeline(Strategy):
    """The strategy of a process that trains the blocks of one stage."""

    def __init__(self, session: Session):
        super().__init__(session)
        team, feed = session.team, session.feed
        self.pipe = Pipe(team, session.device)
        start = Position(0, 0, 0, 0)
        self.placement = spread(session, lambda: feed(next(feed.drafts(0, 0)), start))
        self.own = self.placement[team.stage]

    def step(self, batch: Draft, position: Position) -> Tensor:
        session, losses, own = self.session, self.losses(), self.own
        started = session.schedule.started(position.run_step)
        learning = slice(own.start, min(own.stop, started))
        if learning.start >= learning.stop:  # the stage before sends nothing either
            return losses
        updates = session.updates[learning]
        session.schedule.set_rate(updates, position.run_step)
        arrived = session.feed(batch, position) if session.team.stage == 0 else self.pipe.receive(not position.last)
        context = session.context(session.feed.dropout_seed(position), own.start)
        losses[learning], passed = train_step(self.row[learning], updates, arrived, context)
        if session.team.stage + 1 < session.team.stages and started > own.stop:
            self.pipe.send(passed)
        return losses

    def finish(self) -> None:
        self.pipe.flush()


def spread(session: Session, prepare: Callable[[], Batch]) -> list[slice]:
    """Assigns consecutive blocks to stages so that the slowest stage is as fast as possible.

    The leading process measures a step of each block and, as part of the first stage's work, `prepare`, which makes a
    batch; the other processes receive its times.
    """
    network, team = session.network, session.team
    costs = torch.zeros(len(network.row), dtype=torch.float64, device=network.device)
    if team.leads:
        seconds, batch = _quickest(prepare, network.device)
        context = Context(session.precision)
        costs.copy_(torch.tensor(step_seconds(network.row, session.config, batch, context)))
        costs[0] += seconds
    return balance(team.all_reduce(costs).tolist(), team.stages)


def step_seconds(row: Sequence[Block], config: TrainingConfig, batch: Batch, context: Context) -> list[float]:
    """Seconds of one training step of each block on a batch; the blocks and their weights do not change."""
    seconds = []
    for index, block in enumerate(row):
        trial = copy.deepcopy(block)
        step = partial(train_step, [trial], [Update(trial, config)], batch, context._replace(first=index))
        best, (_, batch) = _quickest(step, batch.labels.device)
        seconds.append(best)
    return seconds


def balance(costs: Sequence[float], stages: int) -> list[slice]:
    """Cuts costs into `stages` consecutive slices, none empty, whose largest sum is as small as possible."""
    ends: dict[tuple[int, int], tuple[float, list[int]]] = {(0, 0): (0.0, [])}
    for stage in range(1, stages + 1):
        for end in range(stage, len(costs) - (stages - stage) + 1):
            choices = [
                (max(ends[stage - 1, start][0], sum(costs[start:end])), [*ends[stage - 1, start][1], start])
                for start in range(stage - 1, end)
                if (stage - 1, start) in ends
            ]
            ends[stage, end] = min(choices)
    starts = ends[stages, len(costs)][1]
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], len(costs)], strict=True)]


def _quickest(work: Callable[[], T], device: torch.device) -> tuple[float, T]:
    """Seconds of the fastest of three calls, the first of which warms up, and the result of the last."""
    best = float("inf")
    for _ in range(3):
        _wait(device)
        started = time.perf_counter()
        result = work()
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return best, result


def _wait(device: torch.device) -> None:
    """Waits for kernels that are still running."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
