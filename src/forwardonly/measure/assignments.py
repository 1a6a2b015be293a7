"""Which channel votes for which class: the assignment of each block, ordered for the eye.

Shapes: K channels (of flat activations: features), C classes.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from forwardonly.network.network import Network
from forwardonly.rules import ChannelLearnable, ChannelStatic
from forwardonly.rules.channel_learnable import entropy


@dataclass(frozen=True)
class Assignment:
    """One block's assignment."""

    block: int
    """Index of the block, from 0."""
    weights: Tensor
    """(K, C), every row sums to 1; channels sorted by the class that they vote for most, the surest first."""
    channels: Tensor
    """(K,) the channel in each row."""
    entropy: float
    """Mean over channels of -sum_c W log W, in nats: 0 where each has one class, log C where none prefers any."""

    @property
    def channels_per_class(self) -> list[int]:
        """How many channels vote most for each class."""
        return torch.bincount(self.weights.argmax(1), minlength=self.weights.shape[1]).tolist()

    def as_json(self) -> dict[str, Any]:
        """The assignment as JSON can hold it."""
        return {
            "block": self.block,
            "entropy": self.entropy,
            "channels_per_class": self.channels_per_class,
            "channels": self.channels.tolist(),
            "weights": [[round(value, 4) for value in row] for row in self.weights.tolist()],
        }


def assignments(network: Network) -> list[Assignment]:
    """The assignment of each block whose rule has one; empty for rules without."""
    found = []
    for index, block in enumerate(network.row):
        rule = block.rule
        if isinstance(rule, ChannelLearnable):
            weights = rule.assignment().detach().cpu()
        elif isinstance(rule, ChannelStatic):
            weights = F.one_hot(rule.groups, rule.classes).float().cpu()
        else:
            continue
        surest, chosen = weights.max(1)
        order = torch.argsort(chosen.float() - surest / 2, stable=True)  # by class, then from the surest channel on
        found.append(Assignment(index, weights[order], order, float(entropy(weights))))
    return found
