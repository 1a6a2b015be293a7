"""A block: a body, the rule that judges it, and the wall behind it.

The wall is the one promise of this library: what a block passes on carries no graph, so no gradient crosses from one
block to another, whatever body or rule they have.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from forwardonly.rules import Rule

Signal = Tensor | tuple[Tensor, ...]
"""What travels between blocks: one tensor, or in residual networks the main path and what the shortcut keeps."""

Join = Callable[[Tensor, Signal], Signal]
"""Makes the next signal from what a block passes on and what it received; has no parameters."""


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

    def pass_on(self, activation: Tensor, incoming: Signal) -> Signal:
        """The signal for the next block: no graph hangs on it."""
        with torch.no_grad():
            passed = self.rule.pass_on(activation.detach())
        return passed if self.join is None else self.join(passed, incoming)


def main_path(signal: Signal) -> Tensor:
    """The tensor that a body sees."""
    return signal if isinstance(signal, Tensor) else signal[0]
