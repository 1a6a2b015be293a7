"""The training loop: each block learns from its own loss as the batch passes through, and nothing flows back.

Everything this library promises is a view of `learn_all`. Memory is flat in depth, for nothing outlives a block; greedy
and simultaneous training differ in which loop is outermost; blocks can sit on different processes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from forwardonly.block import Block, Signal
from forwardonly.network import Network
from forwardonly.rules import ContrastiveRule, Heard
from forwardonly.precision import Precision, autocast
from forwardonly.training.update import Update


def learn_all(
    blocks: Sequence[Block], updates: Sequence[Update], incoming: Signal, labels: Tensor, precision: Precision
) -> Tensor:
    """One training step of every block on one batch. Returns the losses (L,)."""
    losses, heard = [], None
    for block, update in zip(blocks, updates, strict=True):
        loss, told, incoming = learn(block, update, incoming, labels, heard, precision)
        losses.append(loss)
        heard = hear(block, heard, told)
    return torch.stack(losses)


def learn_one(
    blocks: Sequence[Block], index: int, update: Update, incoming: Signal, labels: Tensor, precision: Precision
) -> Tensor:
    """One training step of block `index` alone, behind blocks that stay as they are. Returns its loss."""
    heard = None
    with torch.no_grad(), autocast(precision, labels.device):
        for block in blocks[:index]:
            activation = block(incoming)
            incoming = block.pass_on(activation, incoming)
            if isinstance(block.rule, ContrastiveRule) and block.rule.wants == "earlier":
                heard = hear(block, heard, Heard(*block.rule.goodness(activation).chunk(2)))
    loss, _, _ = learn(blocks[index], update, incoming, labels, heard, precision)
    return loss


def learn(
    block: Block, update: Update, incoming: Signal, labels: Tensor, heard: Heard | None, precision: Precision
) -> tuple[Tensor, Heard | None, Signal]:
    """One block's whole training step: its loss, what it tells the other blocks, and what it passes on."""
    with autocast(precision, labels.device):
        activation = block(incoming)
        loss, told = block.rule.local_loss(activation, labels, heard)
    update(loss)
    return loss.detach(), told, block.pass_on(activation, incoming)


def hear(block: Block, heard: Heard | None, told: Heard | None) -> Heard | None:
    """What the next block hears: earlier goodness with this block's own row below it, if its rule wants that."""
    if told is None or not isinstance(block.rule, ContrastiveRule) or block.rule.wants != "earlier":
        return None
    rows = Heard(*(goodness.unsqueeze(0) for goodness in told))
    return rows if heard is None else Heard(*(torch.cat(pair) for pair in zip(heard, rows, strict=True)))


def read(network: Network, update: Update, images: Tensor, labels: Tensor, precision: Precision) -> None:
    """One training step of the network's reader; the blocks it reads are behind walls and do not move."""
    assert network.reader is not None
    with autocast(precision, labels.device):
        passed = network.read(network.prepare(images))
        loss = network.reader.loss(passed, labels)
    update(loss)
