"""What travels from block to block in training.

Shapes: B images, S streams: two under contrastive rules, one under the others; a signal is (S B, ...).
"""

from typing import NamedTuple, Self

from torch import Tensor

from forwardonly.network.block import Block, Signal
from forwardonly.rules import PeerGoodness


class Batch(NamedTuple):
    """A signal, its labels (B,), and the goodness of the peers that the next block reads."""

    signal: Signal
    labels: Tensor
    peers: PeerGoodness | None = None

    def behind(self, block: Block, activation: Tensor, goodness: PeerGoodness | None) -> Self:
        """The batch behind a block, on the far side of the wall: detached."""
        signal = block.pass_on(activation, self.signal)
        return type(self)(signal, self.labels, block.peers_behind(self.peers, goodness))


def tensors_in(signal: Signal) -> list[Tensor]:
    """The tensors of a signal, whether it is one or several."""
    return [signal] if isinstance(signal, Tensor) else list(signal)


def bytes_of(signal: Signal) -> int:
    """The memory that a signal takes."""
    return sum(tensor.nbytes for tensor in tensors_in(signal))
