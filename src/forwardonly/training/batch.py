"""The batch that passes from block to block in training.

Shapes: B images, S streams (two under contrastive rules, one under one-pass rules); a signal is (S B, ...).
"""

from typing import NamedTuple, Self

from torch import Tensor

from forwardonly.network.block import Block
from forwardonly.network.signal import Signal
from forwardonly.rules import PeerGoodness


class Batch(NamedTuple):
    """A signal, its labels (B,), and the peer goodness that the next block reads."""

    signal: Signal
    labels: Tensor
    peers: PeerGoodness | None = None

    def behind(self, block: Block, activation: Tensor, goodness: PeerGoodness | None) -> Self:
        """The next block's batch: this block's output, detached."""
        signal = block.pass_on(activation, self.signal)
        return type(self)(signal, self.labels, block.peers_behind(self.peers, goodness))
