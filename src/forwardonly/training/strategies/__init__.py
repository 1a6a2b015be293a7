"""Strategies, one file each: how batches meet blocks. `choose` picks the one that a run needs."""

from forwardonly.training.session import Session
from forwardonly.training.strategies.base import Strategy
from forwardonly.training.strategies.coupled import Coupled, whole_step
from forwardonly.training.strategies.greedy import Greedy
from forwardonly.training.strategies.pipeline import Pipeline
from forwardonly.training.strategies.simultaneous import Simultaneous
from forwardonly.training.strategies.threads import Threads

__all__ = ["TABLE", "Coupled", "Greedy", "Pipeline", "Simultaneous", "Strategy", "Threads", "choose", "whole_step"]

TABLE = (
    (lambda session: session.team.stages > 1, Pipeline),
    (lambda session: session.config.schedule == "greedy", Greedy),
    (lambda session: session.network.row[0].needs_peers == "all", Coupled),
    (lambda session: session.config.workers > 1, Threads),
    (lambda session: True, Simultaneous),
)
"""When a strategy is the one: the first row that holds. `training.compatibility` has refused all that exclude each
other, so that at most one of the others does."""


def choose(session: Session) -> Strategy:
    """The strategy of a run."""
    return next(strategy(session) for needed, strategy in TABLE if needed(session))
