"""The losses of a row of blocks on one batch, with their graphs: block after block, or among all blocks at once.

`walk` is `Network.walk`. Shapes: B batch.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from forwardonly.network.block import Block
from forwardonly.network.signal import Signal
from forwardonly.rules import PeerGoodness

Walk = Callable[[Signal, Callable[[Block, Any], Signal]], None]
"""Takes a signal through the blocks; the function says what a block passes on, given what arrives there."""


def losses_along(walk: Walk, incoming: Signal, labels: Tensor) -> list[Tensor]:
    """Each block's loss, given labels (B,) and the goodness of the blocks before it, if its rule reads that."""
    losses, peers = [], None

    def at(block: Block, arriving: Any) -> Signal:
        nonlocal peers
        activation, loss, goodness = block.judge(arriving, labels, peers)
        losses.append(loss)
        peers = block.peers_behind(peers, goodness)
        return block.pass_on(activation, arriving)

    walk(incoming, at)
    return losses


def losses_among_all(walk: Walk, incoming: Signal) -> list[Tensor]:
    """The losses of blocks that read the goodness of all others; the graphs of all blocks are alive at once."""
    blocks, streams = [], []

    def at(block: Block, arriving: Any) -> Signal:
        activation = block(arriving)
        blocks.append(block)
        streams.append(block.contrastive_rule.streams(activation))
        return block.pass_on(activation, arriving)

    walk(incoming, at)
    goodness = PeerGoodness(*(torch.stack(rows) for rows in zip(*streams, strict=True)))
    return [block.contrastive_rule.loss(*own, goodness) for block, own in zip(blocks, streams, strict=True)]
