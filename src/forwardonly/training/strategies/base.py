"""What a strategy is: the way in which batches meet blocks."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from forwardonly.training.progress import Position
from forwardonly.training.session import Session


class Strategy:
    """How a batch passes through the blocks. One a run; `strategies.choose` picks it.

    Args:
        session: what the run is made of.
    """

    phases = 1
    """How many times the run goes through all its epochs: more than once where blocks train one after another."""

    def __init__(self, session: Session):
        self.session = session
        self.row = session.network.row
        self.placement = [slice(0, len(self.row))]
        """Which blocks each stage of processes has."""

    @contextmanager
    def epoch(self, position: Position) -> Iterator[None]:
        """A context for the steps of an epoch, whose first one is at `position`."""
        yield

    def step(self, batch: Tensor, position: Position) -> Tensor:
        """One step on the images at `batch` (B,); returns the losses (L,), 0 for blocks that do not learn here.

        They are there when `finish` has returned.
        """
        raise NotImplementedError

    def finish(self) -> None:
        """All steps that were begun are done when this returns."""

    def losses(self) -> Tensor:
        """Room for the losses of a step, (L,), all 0."""
        return torch.zeros(len(self.row), device=self.session.device)
