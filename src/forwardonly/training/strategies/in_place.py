"""In place: a model of the user's runs as it was written, and each block learns when the signal arrives at its wall."""

from collections.abc import Sequence

from torch import Tensor

from forwardonly.training.batch import Batch
from forwardonly.training.step import Context, train_step_in_place
from forwardonly.training.strategies.simultaneous import Simultaneous
from forwardonly.training.update import Update


class InPlace(Simultaneous):
    """The strategy for networks that `localize` made."""

    def learn(self, updates: Sequence[Update], batch: Batch, context: Context) -> Tensor:
        return train_step_in_place(self.session.network, updates, batch, context)
