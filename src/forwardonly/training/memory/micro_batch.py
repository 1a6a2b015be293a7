"""Micro-batches: a block's step on a batch in parts, whose gradients are accumulated."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from forwardonly.network.block import Block
from forwardonly.network.signal import Signal
from forwardonly.rules import PeerGoodness, TwoStreamRule
from forwardonly.system.precision import Precision, autocast
from forwardonly.targets import examples_in
from forwardonly.training.batch import Batch
from forwardonly.training.update import Update


def accumulate(block: Block, update: Update, batch: Batch, precision: Precision, size: int) -> tuple[Tensor, Batch]:
    """One step of a block, `size` images at a time. Returns its loss, and the batch behind it.

    Statistics that a rule or a norm takes from the batch, such as its mean, are taken from each micro-batch.
    """
    streams = 2 if isinstance(block.rule, TwoStreamRule) else 1
    losses, behind = [], []
    whole = max(examples_in(batch.labels, block.rule.targets), 1)
    for start in range(0, len(batch.labels), size):
        part = portion(batch, slice(start, start + size), streams)
        share = examples_in(part.labels, block.rule.targets) / whole
        with autocast(precision, batch.labels.device):
            activation, loss, goodness = block.judge(*part)
        update.backward(loss * share)
        losses.append(loss.detach() * share)
        behind.append(part.behind(block, activation, goodness))
        del activation, loss  # or they would stay in memory while the next micro-batch is computed
    update.step()
    return torch.stack(losses).sum(), joined(behind, batch.labels, streams)


def portion(batch: Batch, chosen: slice, streams: int) -> Batch:
    """The chosen images of a batch, in all streams."""

    def rows(tensor: Tensor) -> Tensor:
        halves = [half[chosen] for half in tensor.chunk(streams)]
        return halves[0] if streams == 1 else torch.cat(halves)

    signal = tree_map(rows, batch.signal)
    peers = None if batch.peers is None else PeerGoodness(*(goodness[:, chosen] for goodness in batch.peers))
    return Batch(signal, batch.labels[chosen], peers)


def joined(parts: Sequence[Batch], labels: Tensor, streams: int) -> Batch:
    """The whole batch from its micro-batches."""

    def whole(columns: Sequence[Tensor]) -> Tensor:
        halves = zip(*(part.chunk(streams) for part in columns), strict=True)
        return torch.cat([half for stream in halves for half in stream])

    signals = [part.signal for part in parts]
    plain = [signal for signal in signals if isinstance(signal, Tensor)]
    signal: Signal = whole(plain) if plain else tuple(whole(column) for column in zip(*signals, strict=True))
    peers = [part.peers for part in parts if part.peers is not None]
    gathered = PeerGoodness(*(torch.cat(rows, dim=1) for rows in zip(*peers, strict=True))) if peers else None
    return Batch(signal, labels, gathered)
