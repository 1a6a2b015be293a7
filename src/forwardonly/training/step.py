"""The training loop: each block learns from its own loss as the batch passes through, and nothing flows back.

Everything this library promises is a view of `learn_all`. Memory is flat in depth, for nothing outlives a block; greedy
and simultaneous training differ in which loop is outermost; blocks can sit on different processes.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor

from forwardonly.network.block import Block, Signal, main_path
from forwardonly.network.network import Network
from forwardonly.rules import ContrastiveRule, PeerGoodness
from forwardonly.rules.base import PeersNeeded
from forwardonly.system.precision import Precision, autocast
from forwardonly.training.batch import Batch, joined, portion
from forwardonly.training.randomness import seed_at
from forwardonly.training.update import Update


def learn_all(
    blocks: Sequence[Block],
    updates: Sequence[Update],
    incoming: Signal,
    labels: Tensor,
    precision: Precision,
    seed: int | None = None,
) -> Tensor:
    """One training step of every block on one batch; `seed` decides dropout. Returns the losses (L,)."""
    if needs_peers(blocks[0]) == "all":
        return learn_together(blocks, updates, incoming, precision)
    return learn_row(blocks, updates, Batch(incoming, labels), precision, seed)[0]


def learn_row(
    blocks: Sequence[Block],
    updates: Sequence[Update],
    batch: Batch,
    precision: Precision,
    seed: int | None = None,
    first: int = 0,
    part: int | None = None,
    turn: Callable[[int], AbstractContextManager[Any]] = nullcontext,
) -> tuple[Tensor, Batch]:
    """One training step of blocks that stand in a row, the first of them at place `first` of the network.

    A block computes so many images at a time, or without `part` all; one that has settled stays as it is, and one that
    waits computes nothing, nor do those behind it: their losses are 0. `turn` makes a context for each place, in which
    its block learns. Returns the losses, and what a block behind receives.
    """
    losses = []
    for index, (block, update) in enumerate(zip(blocks, updates, strict=True), first):
        with turn(index):
            if update.waiting:
                losses.append(torch.zeros((), device=batch.labels.device))
                continue
            if seed is not None:  # for dropout; a block's own, so that it does not matter which process the block is on
                torch.manual_seed(seed_at(seed, index))
            if update.settled:
                block.eval()
            loss, told, signal = (
                learn(block, update, *batch, precision)
                if part is None or part >= len(batch.labels)
                else learn_in_parts(block, update, batch, precision, part)
            )
            batch = Batch(signal, batch.labels, gather(block, batch.peers, told))
            losses.append(loss)
    return torch.stack(losses), batch


def check_shared(network: Network, schedule: str, count: int, whose: str, instead: str) -> None:
    """Raises ValueError unless several batches can be under way in the network's row at once, each at another block.

    `whose` says what there are `count` of, processes or workers, and `instead` what to do then.
    """
    if len(network.row) < count:
        raise ValueError(f"{count} {whose} cannot share {len(network.row)} block(s): {instead}.")
    if schedule == "greedy":
        raise ValueError(f"Greedy training has one block at work at a time, for {count} {whose} too: {instead}.")
    if network.label_classifier is not None or needs_peers(network.row[0]) == "all":
        raise ValueError(
            f"{count} {whose} cannot share the blocks of a rule where all hear each other, or whose negatives or "
            f"predictions need a label classifier: {instead}, or use options of the rule that do without."
        )


def learn_together(
    blocks: Sequence[Block], updates: Sequence[Update], incoming: Signal, precision: Precision
) -> Tensor:
    """`learn_all` where every block hears all others: no loss is known before the last block's goodness.

    So the graphs of all L blocks are alive at once, and memory is not flat in depth; no block is computed twice.
    """
    told = []
    with autocast(precision, main_path(incoming).device):
        for block in blocks:
            activation = block(incoming)
            told.append(contrastive(block).streams(activation))
            incoming = block.pass_on(activation, incoming)
    peers = PeerGoodness(*(torch.stack(rows) for rows in zip(*told, strict=True)))
    losses = torch.stack([contrastive(block).loss(*own, peers) for block, own in zip(blocks, told, strict=True)])
    losses.sum().backward()
    for update in updates:
        update.step()
    return losses.detach()


def learn_one(
    blocks: Sequence[Block],
    index: int,
    update: Update,
    incoming: Signal,
    labels: Tensor,
    peers: PeerGoodness | None,
    precision: Precision,
) -> Tensor:
    """One training step of block `index` alone; `incoming` and `peers` are what `reach` gives for the blocks before it.

    Returns its loss.
    """
    block = blocks[index]
    if needs_peers(block) != "all":
        return learn(block, update, incoming, labels, peers, precision)[0]
    with autocast(precision, labels.device):
        activation = block(incoming)
    loss = loss_among_all(blocks, index, activation, incoming, peers, precision)
    update(loss)
    return loss.detach()


def loss_among_all(
    blocks: Sequence[Block],
    index: int,
    activation: Tensor,
    incoming: Signal,
    peers: PeerGoodness | None,
    precision: Precision,
) -> Tensor:
    """The loss of block `index` if it hears all others: those before it as `peers`, those behind it as they now are."""
    block = blocks[index]
    with autocast(precision, activation.device):
        own = contrastive(block).streams(activation)
    so_far = gather(block, peers, PeerGoodness(*(goodness.detach() for goodness in own)))
    _, everyone = reach(blocks[index + 1 :], block.pass_on(activation, incoming), so_far, precision)
    return contrastive(block).loss(*own, everyone)


def reach(
    blocks: Sequence[Block], incoming: Signal, peers: PeerGoodness | None, precision: Precision
) -> tuple[Signal, PeerGoodness | None]:
    """The signal behind blocks that stay as they are, and what a block there hears: `peers` with their rows below."""
    with torch.no_grad(), autocast(precision, main_path(incoming).device):
        for block in blocks:
            activation = block(incoming)
            incoming = block.pass_on(activation, incoming)
            if needs_peers(block) != "none":
                peers = gather(block, peers, contrastive(block).streams(activation))
    return incoming, peers


def learn(
    block: Block, update: Update, incoming: Signal, labels: Tensor, peers: PeerGoodness | None, precision: Precision
) -> tuple[Tensor, PeerGoodness | None, Signal]:
    """One block's whole training step: its loss, what it tells the other blocks, and what it passes on."""
    with autocast(precision, labels.device), torch.set_grad_enabled(not update.settled):
        activation, loss, told = (compiled_judge() if block.compiled else judge)(block, incoming, labels, peers)
    if not update.settled:
        update(loss)
    return loss.detach(), told, block.pass_on(activation, incoming)


def learn_in_parts(
    block: Block, update: Update, batch: Batch, precision: Precision, part: int
) -> tuple[Tensor, PeerGoodness | None, Signal]:
    """`learn` for a batch that does not fit as a whole: the gradients of its parts add up to one step.

    What a rule or a norm takes from the batch as a whole, such as its mean, it takes from each part.
    """
    streams = 2 if isinstance(block.rule, ContrastiveRule) else 1
    losses, tells, signals = [], [], []
    for start in range(0, len(batch.labels), part):
        some = portion(batch, slice(start, start + part), streams)
        with autocast(precision, batch.labels.device), torch.set_grad_enabled(not update.settled):
            activation, loss, told = judge(block, *some)
        share = len(some.labels) / len(batch.labels)
        if not update.settled:
            (loss * share).backward()
        losses.append(loss.detach() * share)
        tells.append(told)
        signals.append(block.pass_on(activation, some.signal))
        del activation, loss  # or this part's would still be there while the next one's are made
    if not update.settled:
        update.step()
    peers = [own for own in tells if own is not None]
    told = PeerGoodness(*(torch.cat(rows) for rows in zip(*peers, strict=True))) if peers else None
    return torch.stack(losses).sum(), told, joined(signals, streams)


def judge(
    block: Block, incoming: Signal, labels: Tensor, peers: PeerGoodness | None
) -> tuple[Tensor, Tensor, PeerGoodness | None]:
    """A block's activation, its loss, and what it tells the other blocks."""
    activation = block(incoming)
    return activation, *block.rule.local_loss(activation, labels, peers)


@cache
def compiled_judge() -> Callable[..., Any]:
    """`judge` as one graph a block, with one more for its gradient; blocks of the same kind and shape share them.

    PyTorch compiles 8 kinds by default and runs further ones as they are: `torch._dynamo.config.recompile_limit`.
    """
    return torch.compile(judge, dynamic=False)


def gather(block: Block, peers: PeerGoodness | None, told: PeerGoodness | None) -> PeerGoodness | None:
    """What the next block hears: `peers` with this block's own row below it, if its rule wants to hear any."""
    if told is None or needs_peers(block) == "none":
        return None
    rows = PeerGoodness(*(goodness.unsqueeze(0) for goodness in told))
    return rows if peers is None else PeerGoodness(*(torch.cat(pair) for pair in zip(peers, rows, strict=True)))


def needs_peers(block: Block) -> PeersNeeded:
    """Which other blocks' goodness the block's rule wants."""
    return block.rule.needs_peers if isinstance(block.rule, ContrastiveRule) else "none"


def contrastive(block: Block) -> ContrastiveRule:
    """The block's rule, known to be a contrastive one."""
    assert isinstance(block.rule, ContrastiveRule)
    return block.rule


def read(network: Network, update: Update, images: Tensor, labels: Tensor, precision: Precision) -> Tensor:
    """One training step of the network's label classifier; the blocks it reads are behind walls and do not move.

    Returns its logits (B, C) of the images after the step, which `Network.present` can draw wrong labels by.
    """
    assert network.label_classifier is not None
    with autocast(precision, labels.device):
        passed = network.read(network.prepare(images))
        loss = network.label_classifier.loss(passed, labels)
    update(loss)
    with torch.no_grad(), autocast(precision, labels.device):
        return network.label_classifier(passed).sum(0)
