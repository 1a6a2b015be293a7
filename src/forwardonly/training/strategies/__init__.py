"""Strategies, one file each: how batches pass through the blocks. `choose` picks the one that a run needs."""

from collections.abc import Sequence

from torch import Tensor

from forwardonly.network.network import Network
from forwardonly.training.batch import Batch
from forwardonly.training.session import Session
from forwardonly.training.step import Context, train_step, train_step_in_place
from forwardonly.training.strategies.base import Strategy
from forwardonly.training.strategies.coupled import Coupled, coupled_step
from forwardonly.training.strategies.greedy import Greedy
from forwardonly.training.strategies.in_place import InPlace
from forwardonly.training.strategies.pipeline import Pipeline
from forwardonly.training.strategies.simultaneous import Simultaneous
from forwardonly.training.strategies.threads import Threads
from forwardonly.training.update import Update

__all__ = [
    "TABLE",
    "Coupled",
    "Greedy",
    "InPlace",
    "Pipeline",
    "Simultaneous",
    "Strategy",
    "Threads",
    "choose",
    "whole_step",
]

TABLE = (
    (lambda session: session.team.stages > 1, Pipeline),
    (lambda session: session.config.schedule == "greedy", Greedy),
    (lambda session: session.network.row[0].needs_peers == "all", Coupled),
    (lambda session: session.network.in_place, InPlace),
    (lambda session: session.config.workers > 1, Threads),
    (lambda session: True, Simultaneous),
)
"""Strategies and their conditions; the first whose condition holds is chosen.

`training.compatibility` has refused the combinations that no strategy supports.
"""


def choose(session: Session) -> Strategy:
    """The strategy of a run."""
    return next(strategy(session) for needed, strategy in TABLE if needed(session))


def whole_step(network: Network, updates: Sequence[Update], batch: Batch, context: Context) -> Tensor:
    """One step of all blocks, coupled where their rule needs it. Returns the losses (L,)."""
    if network.row[0].needs_peers == "all":
        return coupled_step(network, updates, batch, context)
    if network.in_place:
        return train_step_in_place(network, updates, batch, context)
    return train_step(network.row, updates, batch, context)[0]
