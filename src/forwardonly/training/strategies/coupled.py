"""Coupled training: all blocks learn from every batch, and each loss needs the goodness of all blocks."""

from collections.abc import Sequence

import torch
from torch import Tensor

from forwardonly.network.block import Block, losses_among_all, main_path
from forwardonly.system.precision import autocast
from forwardonly.training.batch import Batch
from forwardonly.training.feed import Draft
from forwardonly.training.progress import Position
from forwardonly.training.step import Context, train_step
from forwardonly.training.strategies.base import Strategy
from forwardonly.training.update import Update


class Coupled(Strategy):
    """The strategy for rules that read the goodness of all other blocks."""

    def step(self, batch: Draft, position: Position) -> Tensor:
        session = self.session
        session.schedule.set_rate(session.updates, position.run_step)
        return coupled_step(self.row, session.updates, session.feed(batch, position), session.context(seed=None))


def coupled_step(blocks: Sequence[Block], updates: Sequence[Update], batch: Batch, context: Context) -> Tensor:
    """One step of blocks that read the goodness of all others. Returns the losses (L,).

    No loss is known before the last block's goodness, so the graphs of all L blocks are alive at once and memory grows
    with depth. No block is computed twice.
    """
    with autocast(context.precision, main_path(batch.signal).device):
        losses = torch.stack(losses_among_all(blocks, batch.signal))
    if losses.requires_grad:
        losses.sum().backward()
    for update in updates:
        update.step()
    return losses.detach()


def whole_step(blocks: Sequence[Block], updates: Sequence[Update], batch: Batch, context: Context) -> Tensor:
    """One step of all blocks, coupled where their rule needs it. Returns the losses (L,)."""
    if blocks[0].needs_peers == "all":
        return coupled_step(blocks, updates, batch, context)
    return train_step(blocks, updates, batch, context)[0]
