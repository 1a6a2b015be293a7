"""In place: a model of the user's runs as it was written, and each block learns when the signal arrives at its wall."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from forwardonly.network.block import Block
from forwardonly.network.network import Network
from forwardonly.network.signal import Signal
from forwardonly.system.precision import autocast
from forwardonly.training.batch import Batch
from forwardonly.training.feed import Draft
from forwardonly.training.progress import Position
from forwardonly.training.step import Context, learn
from forwardonly.training.strategies.base import Strategy
from forwardonly.training.update import Update


class InPlace(Strategy):
    """The strategy for networks that `localize` made."""

    def step(self, batch: Draft, position: Position) -> Tensor:
        session, losses = self.session, self.losses()
        started = session.schedule.started(position.run_step)
        updates = session.updates[:started]
        session.schedule.set_rate(updates, position.run_step)
        first = session.feed(batch, position)
        context = session.context(session.feed.dropout_seed(position))
        losses[:started] = in_place_step(session.network, updates, first, context)
        return losses


def in_place_step(network: Network, updates: Sequence[Update], batch: Batch, context: Context) -> Tensor:
    """One step of the blocks that have updates, on one batch. Returns their losses (L,)."""
    device = network.device
    losses = torch.zeros(len(updates), device=device)  # 0 for a block that the model skips, as layer drop does
    places = {id(block): index for index, block in enumerate(network.row)}

    def at(block: Block, arriving: Any) -> Signal:
        nonlocal batch
        index = places[id(block)]
        with torch.autocast(device.type, enabled=False):  # the update's own arithmetic is in float32
            loss, batch = learn(block, updates[index], Batch(arriving, batch.labels, batch.peers), context)
        losses[index] = loss
        return batch.signal

    if context.seed is not None:
        torch.manual_seed(context.seed)
    with torch.enable_grad(), autocast(context.precision, device):
        network.walk(batch.signal, at, len(updates))
    return losses
