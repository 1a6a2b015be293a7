"""The base class of the strategies."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from forwardonly.training.feed import Draft
from forwardonly.training.progress import Position
from forwardonly.training.session import Session


class Strategy:
    """How batches pass through the blocks. A run has one, picked by `strategies.choose`.

    Args:
        session: network, data and settings of the run.
    """

    phases = 1
    """How many times the run goes through all its epochs: more than once where blocks train one after another."""

    def __init__(self, session: Session):
        self.session = session
        self.row = session.network.row
        self.placement = [slice(0, len(self.row))]
        """The blocks of each pipeline stage."""

    @contextmanager
    def epoch(self, position: Position) -> Iterator[None]:
        """A context around the steps of an epoch, the first of which is at `position`."""
        yield

    def step(self, batch: Draft, position: Position) -> Tensor:
        """One step on the images of `batch`. Returns the losses (L,), 0 for blocks that do not learn here.

        Their values are valid once `finish` has returned.
        """
        raise NotImplementedError

    def finish(self) -> None:
        """Waits until all steps that were begun are done."""

    def losses(self) -> Tensor:
        """Zeros for the losses of a step, (L,)."""
        return torch.zeros(len(self.row), device=self.session.device)
