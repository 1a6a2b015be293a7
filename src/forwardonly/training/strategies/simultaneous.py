"""Simultaneous training: all blocks learn from every batch, one after another as it passes through."""

from collections.abc import Sequence

from torch import Tensor

from forwardonly.training.batch import Batch
from forwardonly.training.feed import Draft
from forwardonly.training.progress import Position
from forwardonly.training.step import Context, train_step
from forwardonly.training.strategies.base import Strategy
from forwardonly.training.update import Update


class Simultaneous(Strategy):
    """The plain training loop."""

    def step(self, batch: Draft, position: Position) -> Tensor:
        session, losses = self.session, self.losses()
        started = session.schedule.started(position.run_step)
        updates = session.updates[:started]
        session.schedule.set_rate(updates, position.run_step)
        first = session.feed(batch, position)
        context = session.context(session.feed.dropout_seed(position))
        losses[:started] = self.learn(updates, first, context)
        return losses

    def learn(self, updates: Sequence[Update], batch: Batch, context: Context) -> Tensor:
        """One step of the blocks that have updates. Returns their losses."""
        return train_step(self.row[: len(updates)], updates, batch, context)[0]
