"""A block: a body, the rule that computes its loss, and the wall behind it.

The wall is the guarantee of this library: a block passes on a detached signal, so that no gradient crosses from one
block to another, regardless of their bodies and rules.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Self

import torch
from torch import Tensor, nn

from forwardonly.network.signal import Signal, main_path
from forwardonly.rules import PeerGoodness, Rule, TwoStreamRule
from forwardonly.rules.base import PeersNeeded

Join = Callable[[Tensor, Signal], Signal]
"""Combines a block's output with its input into the next signal; has no parameters."""

Judged = tuple[Tensor, Tensor, PeerGoodness | None]
"""A block's activation, its loss, and under contrastive rules its goodness, detached, for its peers."""


class Block(nn.Module):
    """One locally trained part of a network.

    Args:
        body: any module; it receives the first tensor of the signal.
        rule: the block's own copy of a rule, already set up for the body's activation.
        join: for residual networks, combines shortcut and activation behind the wall.
    """

    no_layer: frozenset[str] = frozenset()
    """Names of weights with several axes that are no layer's, such as embeddings: Muon leaves them to SGD."""
    compiled = False
    """Whether training compiles the block; a setting of the run, not saved with the network."""

    def __init__(self, body: nn.Module, rule: Rule, join: Join | None = None):
        super().__init__()
        self.body = body
        self.rule = rule
        self.join = join

    def train(self, mode: bool = True) -> Self:
        """Training mode, except for a body or a rule whose parameters are all frozen: its norms keep their statistics.

        A block of which both are frozen stays as it is.
        """
        super().train(mode)
        for part in (self.body, self.rule):
            if is_frozen(part):
                part.eval()
        return self

    def forward(self, incoming: Signal) -> Tensor:
        """The activation, from which the rule computes the loss."""
        return self.body(main_path(incoming))

    def judge(self, incoming: Signal, labels: Tensor, peers: PeerGoodness | None = None) -> Judged:
        """The activation, loss and goodness, given labels (B,) and the goodness of the peers that the rule reads."""
        return (_compiled_judge() if self.compiled else _judge)(self, incoming, labels, peers)

    def pass_on(self, activation: Tensor, incoming: Signal) -> Signal:
        """The input of the next block, detached."""
        with torch.no_grad():
            passed = self.rule.pass_on(activation.detach())
        return passed if self.join is None else self.join(passed, incoming)

    def shown(self, passed: Signal) -> Tensor:
        """The tensor (B, ...) of what the block passes on that readers of the network see."""
        return main_path(passed)

    @property
    def whole(self) -> nn.Module:
        """What holds the weights and the buffers of the block."""
        return self

    @property
    def needs_peers(self) -> PeersNeeded:
        """The other blocks whose goodness the rule reads."""
        return self.rule.needs_peers if isinstance(self.rule, TwoStreamRule) else "none"

    @property
    def contrastive_rule(self) -> TwoStreamRule:
        """The rule, typed as a contrastive one."""
        assert isinstance(self.rule, TwoStreamRule)
        return self.rule

    def peers_behind(self, peers: PeerGoodness | None, own: PeerGoodness | None) -> PeerGoodness | None:
        """The next block's peers: `peers` with this block's `own` goodness (B,) as a further row, or none."""
        if own is None or self.needs_peers == "none":
            return None
        rows = PeerGoodness(*(goodness.unsqueeze(0) for goodness in own))
        return rows if peers is None else PeerGoodness(*(torch.cat(pair) for pair in zip(peers, rows, strict=True)))


def is_frozen(module: nn.Module) -> bool:
    """Whether a module has parameters, none of which is trained (`requires_grad_(False)`)."""
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


def refuse_shared_weights(blocks: Sequence[Block]) -> None:
    """Raises ValueError, naming both places, where two blocks would train one weight or move one running statistic."""
    places: list[tuple[int, int, int, str]] = []
    for index, block in enumerate(blocks):
        trained = [(name, own) for name, own in block.named_parameters() if own.requires_grad]
        moved = [(name, own) for name, own in block.named_buffers() if name.rpartition(".")[2].startswith("running_")]
        for name, tensor in trained + moved:
            if not nn.parameter.is_lazy(tensor) and tensor.numel() and tensor.device.type != "meta":
                start, spans = tensor.data_ptr(), zip(tensor.shape, tensor.stride(), strict=True)
                bytes_long = (1 + sum((size - 1) * stride for size, stride in spans)) * tensor.element_size()
                places.append((start, start + bytes_long, index, name))
    end, other, name = 0, 0, ""  # of what reaches furthest so far
    for start, stop, index, own in sorted(places):
        if start < end and index != other:
            (first, before), (second, behind) = sorted([(other, name), (index, own)])
            raise ValueError(
                f"Blocks {first} and {second} share a weight, {before!r} and {behind!r}, but each is to learn from its "
                "own loss alone: give them weights of their own, or make them one block."
            )
        if stop > end:
            end, other, name = stop, index, own


def _judge(block: Block, incoming: Signal, labels: Tensor, peers: PeerGoodness | None) -> Judged:
    activation = block(incoming)
    return activation, *block.rule.local_loss(activation, labels, peers)


@cache
def _compiled_judge() -> Callable[..., Any]:
    """`_judge` compiled, forward and backward; blocks of the same kind and shape share the graphs.

    PyTorch compiles 8 kinds by default and runs further ones uncompiled: `torch._dynamo.config.recompile_limit`.
    """
    return torch.compile(_judge, dynamic=False)
