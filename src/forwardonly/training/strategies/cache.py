"""Cache of the input to the block that greedy training is at.

Shapes: N images, S streams (two under contrastive rules, one under one-pass rules).
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from forwardonly.data import Images
from forwardonly.network.localized import Localized
from forwardonly.network.network import Network
from forwardonly.network.signal import Signal, bytes_of, tensors_in
from forwardonly.rules import PeerGoodness, TwoStreamRule
from forwardonly.system.precision import Precision
from forwardonly.training.batch import Batch
from forwardonly.training.config import TrainingConfig
from forwardonly.training.step import advance

Chosen = Tensor | slice

MOST_BYTES = 2**30
CHUNK = 1000


def repeats(network: Network, images: Images, config: TrainingConfig) -> bool:
    """Whether the input of a block is the same in every epoch of its greedy training, and fits in memory."""
    rule = network.rule
    fixed = not isinstance(rule, TwoStreamRule) or getattr(rule, "negatives", "uniform") == "fixed"
    mixes = nn.modules.batchnorm._BatchNorm  # makes an activation depend on the other images of the batch
    steady = not network.draws and not any(isinstance(module, mixes) for module in network.modules())
    theirs = isinstance(network, Localized)  # a user's model may write into its signals, or mix the images in them
    if not (fixed and steady and not theirs and config.augment is None and network.label_classifier is None):
        return False
    signal = network.present(images.images[:1], images.labels[:1], wrong=images.labels[:1])
    largest = max(bytes_of(signal), *network.each(signal, lambda block, activation, passed: bytes_of(passed)))
    return largest * len(images) <= MOST_BYTES


class Cache:
    """The input of one block for all training images, and the peer goodness that the block reads.

    `wrong` are the wrong labels (N,) of the negative stream, or None for one-pass rules.
    """

    def __init__(self, network: Network, images: Images, wrong: Tensor | None, precision: Precision):
        self.network = network
        self.images = images
        self.wrong = wrong
        self.precision = precision
        self.index = 0
        self.peers: PeerGoodness | None = None
        self.streams = 1 if wrong is None else 2
        self.signal = self._join(map(self._presented, self._chunks()))

    def move_to(self, index: int) -> None:
        """Advances to the input of block `index`; the blocks before it must have finished training."""
        while self.index < index:
            block = self.network.row[self.index : self.index + 1]
            parts = [advance(block, self.batch(some), self.precision) for some in self._chunks()]
            self.signal = self._join(part.signal for part in parts)
            peers = [part.peers for part in parts if part.peers is not None]
            self.peers = PeerGoodness(*(torch.cat(rows, dim=1) for rows in zip(*peers, strict=True))) if peers else None
            self.index += 1

    def batch(self, chosen: Chosen) -> Batch:
        """The input batch of the images at `chosen` (B,)."""
        if isinstance(chosen, Tensor) and len(chosen) == len(self.images):
            chosen = slice(0, len(chosen))  # the whole set is not shuffled, and a copy would cost half a step
        parts = [_pick(tensor, chosen).flatten(0, 1) for tensor in tensors_in(self.signal)]
        peers = None if self.peers is None else PeerGoodness(*(_pick(rows, chosen) for rows in self.peers))
        labels = self.network.aimed(self.images.labels[chosen])
        return Batch(parts[0] if isinstance(self.signal, Tensor) else tuple(parts), labels, peers)

    def _presented(self, chosen: slice) -> Signal:
        """The first block's input, in the blocks' own precision, so that no step has to convert it."""
        wrong = None if self.wrong is None else self.wrong[chosen]
        signal = self.network.present(self.images.images[chosen], self.images.labels[chosen], wrong=wrong)
        parts = [part.bfloat16() if self.precision == "bf16" else part for part in tensors_in(signal)]
        return parts[0] if isinstance(signal, Tensor) else tuple(parts)

    def _chunks(self) -> Iterator[slice]:
        for start in range(0, len(self.images), CHUNK):
            yield slice(start, start + CHUNK)

    def _join(self, parts: Iterable[Signal]) -> Signal:
        """Joins the signals (S B, ...) of chunks into one of all images, each tensor (S, N, ...)."""
        rows = [[tensor.unflatten(0, (self.streams, -1)) for tensor in tensors_in(part)] for part in parts]
        joined = [torch.cat(column, dim=1) for column in zip(*rows, strict=True)]
        return joined[0] if len(joined) == 1 else tuple(joined)


def _pick(rows: Tensor, chosen: Chosen) -> Tensor:
    """The chosen images of (rows, N, ...)."""
    # index_select copies whole rows: a hundred times faster here than indexing with [...]
    return rows[:, chosen] if isinstance(chosen, slice) else rows.index_select(1, chosen)
