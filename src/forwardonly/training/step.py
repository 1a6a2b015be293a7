"""The training step: each block learns from its own loss as the batch passes through; no gradient flows back.

The library's properties follow from this loop. Memory does not grow with depth, because no graph outlives its block's
step. Greedy and simultaneous training differ in which loop is outermost. Blocks can run in different threads or
processes.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from forwardonly.network.block import Block
from forwardonly.network.network import Network
from forwardonly.network.signal import Signal
from forwardonly.system.precision import Precision, autocast
from forwardonly.targets import examples_in
from forwardonly.training.batch import Batch
from forwardonly.training.memory.micro_batch import accumulate
from forwardonly.training.randomness import seed_at
from forwardonly.training.update import Update


class Context(NamedTuple):
    """Settings of a step, besides the blocks and the batch."""

    precision: Precision
    seed: int | None = None
    """Seeds dropout block by block, whichever process a block is on; None leaves torch's generator as it is."""
    micro_batch: int | None = None
    """Images that a block computes at a time; None for the whole batch."""
    first: int = 0
    """Index in the network of the first of the blocks."""
    slot: Callable[[int], AbstractContextManager[Any]] = nullcontext
    """A context in which the block of that index learns; with several batches in flight it waits for the batch's turn.
    """


def train_step(
    blocks: Sequence[Block], updates: Sequence[Update], batch: Batch, context: Context
) -> tuple[Tensor, Batch]:
    """One step of every block on one batch. Returns the losses (L,), and the batch behind the last block."""
    losses = []
    for index, (block, update) in enumerate(zip(blocks, updates, strict=True), context.first):
        with context.slot(index):
            if context.seed is not None:
                torch.manual_seed(seed_at(context.seed, index))
            loss, batch = learn(block, update, batch, context)
            losses.append(loss)
    return torch.stack(losses), batch


def train_step_in_place(network: Network, updates: Sequence[Update], batch: Batch, context: Context) -> Tensor:
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
        torch.clear_autocast_cache()  # of this block's weights: all blocks' copies in bf16 would fill memory
        return batch.signal

    if context.seed is not None:
        torch.manual_seed(context.seed)
    with torch.enable_grad(), autocast(context.precision, device):
        network.walk(batch.signal, at, len(updates))
    return losses


def learn(block: Block, update: Update, batch: Batch, context: Context) -> tuple[Tensor, Batch]:
    """One block's step. Returns its loss, and the batch behind it."""
    if context.micro_batch is not None and context.micro_batch < len(batch.labels):
        return accumulate(block, update, batch, context.precision, context.micro_batch)
    with autocast(context.precision, batch.labels.device):
        activation, loss, goodness = block.judge(*batch)  # its own: nothing from other blocks flows back
    if block.rule.targets == "token":
        update.examples = examples_in(batch.labels, "token")
    update(loss)  # gradient, optimiser step, nothing kept
    return loss.detach(), batch.behind(block, activation, goodness)  # detached


def advance(blocks: Sequence[Block], batch: Batch, precision: Precision) -> Batch:
    """The batch behind blocks that do not learn."""
    with torch.no_grad(), autocast(precision, batch.labels.device):
        for block in blocks:
            activation = block(batch.signal)
            reads = block.needs_peers != "none"
            batch = batch.behind(block, activation, block.contrastive_rule.streams(activation) if reads else None)
    return batch
