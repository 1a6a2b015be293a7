"""A block: a body, the rule that judges it, and the wall behind it.

The wall is the one promise of this library: what a block passes on carries no graph, so no gradient crosses from one
block to another, whatever body or rule they have.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from forwardonly.rules import ContrastiveRule, PeerGoodness, Rule
from forwardonly.rules.base import PeersNeeded

Signal = Tensor | tuple[Tensor, ...]
"""What travels between blocks: one tensor, or in residual networks the main path and what the shortcut keeps."""

Join = Callable[[Tensor, Signal], Signal]
"""Makes the next signal from what a block passes on and what it received; has no parameters."""

Judged = tuple[Tensor, Tensor, PeerGoodness | None]
"""A block's activation, its loss, and under contrastive rules its goodness, detached, for its peers to read."""


class Block(nn.Module):
    """One locally trained part of a network.

    Args:
        body: any module; it sees the first tensor of the signal.
        rule: the block's own copy of a rule, already set up for the body's activation.
        join: for residual networks, how shortcut and activation meet behind the wall.
    """

    compiled = False
    """Whether training runs the block as a compiled graph; a matter of the run, not kept with the network."""

    def __init__(self, body: nn.Module, rule: Rule, join: Join | None = None):
        super().__init__()
        self.body = body
        self.rule = rule
        self.join = join

    def forward(self, incoming: Signal) -> Tensor:
        """The activation that the rule judges."""
        return self.body(main_path(incoming))

    def judge(self, incoming: Signal, labels: Tensor, peers: PeerGoodness | None = None) -> Judged:
        """The activation, and what the rule says of it, from labels (B,) and the goodness of the peers it reads."""
        return (_compiled_judge() if self.compiled else _judge)(self, incoming, labels, peers)

    def pass_on(self, activation: Tensor, incoming: Signal) -> Signal:
        """The signal for the next block: no graph hangs on it."""
        with torch.no_grad():
            passed = self.rule.pass_on(activation.detach())
        return passed if self.join is None else self.join(passed, incoming)

    @property
    def needs_peers(self) -> PeersNeeded:
        """Which other blocks' goodness the rule reads."""
        return self.rule.needs_peers if isinstance(self.rule, ContrastiveRule) else "none"

    @property
    def contrastive_rule(self) -> ContrastiveRule:
        """The rule, known to be a contrastive one."""
        assert isinstance(self.rule, ContrastiveRule)
        return self.rule

    def peers_behind(self, peers: PeerGoodness | None, own: PeerGoodness | None) -> PeerGoodness | None:
        """The peers of the next block: `peers` and this block's `own` goodness (B,) as a further row, or none."""
        if own is None or self.needs_peers == "none":
            return None
        rows = PeerGoodness(*(goodness.unsqueeze(0) for goodness in own))
        return rows if peers is None else PeerGoodness(*(torch.cat(pair) for pair in zip(peers, rows, strict=True)))


def main_path(signal: Signal) -> Tensor:
    """The tensor that a body sees."""
    return signal if isinstance(signal, Tensor) else signal[0]


def local_losses(row: Sequence[Block], incoming: Signal, labels: Tensor) -> Iterator[Tensor]:
    """Each block's loss on one batch, its graph still on it; the weights stay as they are.

    Blocks that read the goodness of all others give theirs once the last block has computed.
    """
    if row[0].needs_peers == "all":
        yield from losses_among_all(row, incoming)
        return
    peers = None
    for block in row:
        activation, loss, goodness = block.judge(incoming, labels, peers)
        incoming, peers = block.pass_on(activation, incoming), block.peers_behind(peers, goodness)
        yield loss


def losses_among_all(row: Sequence[Block], incoming: Signal) -> list[Tensor]:
    """The losses of blocks that read the goodness of all others: the graphs of all are alive at once."""
    streams = []
    for block in row:
        activation = block(incoming)
        streams.append(block.contrastive_rule.streams(activation))
        incoming = block.pass_on(activation, incoming)
    everyone = PeerGoodness(*(torch.stack(rows) for rows in zip(*streams, strict=True)))
    return [block.contrastive_rule.loss(*own, everyone) for block, own in zip(row, streams, strict=True)]


def _judge(block: Block, incoming: Signal, labels: Tensor, peers: PeerGoodness | None) -> Judged:
    activation = block(incoming)
    return activation, *block.rule.local_loss(activation, labels, peers)


@cache
def _compiled_judge() -> Callable[..., Any]:
    """`_judge` as one graph a block, with one more for its gradient; blocks of the same kind and shape share them.

    PyTorch compiles 8 kinds by default and runs further ones as they are: `torch._dynamo.config.recompile_limit`.
    """
    return torch.compile(_judge, dynamic=False)
