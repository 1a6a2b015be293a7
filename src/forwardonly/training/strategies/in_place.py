"""In place: a model of the user's runs as it was written, and each block learns when the signal arrives at its wall."""

from torch import Tensor

from forwardonly.training.feed import Draft
from forwardonly.training.progress import Position
from forwardonly.training.step import train_step_in_place
from forwardonly.training.strategies.base import Strategy


class InPlace(Strategy):
    """The strategy for networks that `localize` made."""

    def step(self, batch: Draft, position: Position) -> Tensor:
        session, losses = self.session, self.losses()
        started = session.schedule.started(position.run_step)
        updates = session.updates[:started]
        session.schedule.set_rate(updates, position.run_step)
        first = session.feed(batch, position)
        context = session.context(session.feed.dropout_seed(position))
        losses[:started] = train_step_in_place(session.network, updates, first, context)
        return losses
