"""Simultaneous training: all blocks learn from every batch, one after another as it passes through."""

from torch import Tensor

from forwardonly.training.feed import Draft
from forwardonly.training.progress import Position
from forwardonly.training.step import train_step
from forwardonly.training.strategies.base import Strategy


class Simultaneous(Strategy):
    """The plain training loop."""

    def step(self, batch: Draft, position: Position) -> Tensor:
        session, losses = self.session, self.losses()
        started = session.schedule.started(position.run_step)
        updates = session.updates[:started]
        session.schedule.set_rate(updates, position.run_step)
        first = session.feed(batch, position)
        context = session.context(session.feed.dropout_seed(position))
        losses[:started] = train_step(self.row[:started], updates, first, context)[0]
        return losses
