"""Strategies, one file each: how batches pass through the blocks. `choose` picks the one that a run needs."""

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
"""Strategies and their conditions; the first whose condition holds is chosen.

`training.compatibility` has refused the combinations that no strategy supports.
"""


def choose(session: Session) -> Strategy:
    """The strategy of a run."""
    return next(strategy(session) for needed, strategy in TABLE if needed(session))
