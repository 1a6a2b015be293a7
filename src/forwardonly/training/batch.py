"""What travels from block to block in training, whole or in parts.

Shapes: B images, S streams: two under contrastive rules, one under the others; a signal is (S B, ...).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from forwardonly.network.block import Signal
from forwardonly.rules import PeerGoodness


class Batch(NamedTuple):
    """What travels down the row: a signal, its labels (B,), and what the next block hears."""

    signal: Signal
    labels: Tensor
    peers: PeerGoodness | None = None


def tensors_in(signal: Signal) -> list[Tensor]:
    """The tensors of a signal, whether it is one or several."""
    return [signal] if isinstance(signal, Tensor) else list(signal)


def bytes_of(signal: Signal) -> int:
    """The memory that a signal takes."""
    return sum(tensor.nbytes for tensor in tensors_in(signal))


def portion(batch: Batch, chosen: slice, streams: int) -> Batch:
    """Some images of a batch, in all streams."""

    def rows(tensor: Tensor) -> Tensor:
        halves = [half[chosen] for half in tensor.chunk(streams)]
        return halves[0] if streams == 1 else torch.cat(halves)

    signal = rows(batch.signal) if isinstance(batch.signal, Tensor) else tuple(map(rows, batch.signal))
    peers = None if batch.peers is None else PeerGoodness(*(goodness[:, chosen] for goodness in batch.peers))
    return Batch(signal, batch.labels[chosen], peers)


def joined(signals: Sequence[Signal], streams: int) -> Signal:
    """The signal of a whole batch from those of its parts."""

    def whole(parts: Sequence[Tensor]) -> Tensor:
        halves = zip(*(part.chunk(streams) for part in parts), strict=True)
        return torch.cat([half for stream in halves for half in stream])

    if isinstance(signals[0], Tensor):
        return whole([signal for signal in signals if isinstance(signal, Tensor)])
    return tuple(whole(column) for column in zip(*signals, strict=True))
