"""Assignments: which channel of each block votes for which class, sorted for display.

Shapes: K channels (of flat activations: features), C classes.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from forwardonly.network.network import Network
from forwardonly.ops.assignments import entropy
from forwardonly.rules import ChannelLearnable, ChannelStatic


@dataclass(frozen=True)
class Assignment:
    """The assignment of one block."""

    block: int
    """Index of the block, from 0."""
    weights: Tensor
    """(K, C), every row sums to 1; channels are sorted by their strongest class, the most certain first. Where regions
    of a channel have votes of their own, their mean."""
    channels: Tensor
    """(K,) the channel of each row."""
    entropy: float
    """Mean over channels of -sum_c W log W, in nats: 0 where each has one class, log C where none prefers any."""

    @property
    def channels_per_class(self) -> list[int]:
        """Number of channels that vote most for each class."""
        return torch.bincount(self.weights.argmax(1), minlength=self.weights.shape[1]).tolist()

    def as_json(self) -> dict[str, Any]:
        """The assignment as JSON can represent it."""
        return {
            "block": self.block,
            "entropy": self.entropy,
            "channels_per_class": self.channels_per_class,
            "channels": self.channels.tolist(),
            "weights": [[round(value, 4) for value in row] for row in self.weights.tolist()],
        }


def assignments(network: Network) -> list[Assignment]:
    """The assignment of each block whose rule has one; empty under other rules."""
    found = []
    for index, block in enumerate(network.row):
        rule = block.rule
        if isinstance(rule, ChannelLearnable):
            weights = rule.assignment().detach().cpu().unflatten(0, (-1, rule.regions)).mean(1)
        elif isinstance(rule, ChannelStatic):
            weights = F.one_hot(rule.groups, rule.classes).float().cpu()
        else:
            continue
        surest, chosen = weights.max(1)
        order = torch.argsort(chosen.float() - surest / 2, stable=True)  # by class, then by certainty
        found.append(Assignment(index, weights[order], order, float(entropy(weights))))
    return found
