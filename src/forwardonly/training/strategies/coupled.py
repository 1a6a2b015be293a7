"""Coupled training: all blocks learn from every batch, and each loss needs the goodness of all blocks."""

from collections.abc import Sequence

import torch
from torch import Tensor

from forwardonly.network.network import Network
from forwardonly.network.signal import main_path
from forwardonly.system.precision import autocast
from forwardonly.training.batch import Batch
from forwardonly.training.feed import Draft
from forwardonly.training.progress import Position
from forwardonly.training.step import Context
from forwardonly.training.strategies.base import Strategy
from forwardonly.training.update import Update


class Coupled(Strategy):
    """The strategy for rules that read the goodness of all other blocks."""

    def step(self, batch: Draft, position: Position) -> Tensor:
        session = self.session
        session.schedule.set_rate(session.updates, position.run_step)
        first = session.feed(batch, position)
        return coupled_step(session.network, session.updates, first, session.context(seed=None))


def coupled_step(network: Network, updates: Sequence[Update], batch: Batch, context: Context) -> Tensor:
    """One step of blocks that read the goodness of all others. Returns the losses (L,).

    No loss is known before the last block's goodness, so the graphs of all L blocks are alive at once and memory grows
    with depth. No block is computed twice.
    """
    with autocast(context.precision, main_path(batch.signal).device):
        losses = torch.stack(network.local_losses(batch.signal, batch.labels))
    if losses.requires_grad:
        losses.sum().backward()
    for update in updates:
        update.step()
    return losses.detach()
