"""Fixed channel-class groups. DeeperForward, ICLR 2025 (mean activation), and before it Channel-wise Competitive
Learning (CwC), AAAI 2024 (mean of squares).

Channels are split into C groups; a class's score is the mean goodness of its group. Given: the scores, softmax
cross-entropy, group norm over the C groups between layers. Reconstruction: an inverse temperature of the scores, and
groups that differ by one channel where the number of classes does not divide that of channels.

Shapes: B batch, C classes, K channels (of flat activations: features).
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from forwardonly.ops.assignments import group_index
from forwardonly.ops.norms import group_norm
from forwardonly.ops.pooling import grid_pool
from forwardonly.rules.base import BlockPosition, OnePassRule, float32

Goodness = Literal["mean", "squared"]


def group_scores(activation: Tensor, groups: Tensor, classes: int, goodness: Goodness) -> Tensor:
    """Each class's mean activation, or mean square, over its group and space: (B, K, H, W) or (B, K) -> (B, C)."""
    values = float32(activation).square() if goodness == "squared" else activation
    member = F.one_hot(groups, classes).float()
    return float32(grid_pool(values, 1)) @ (member / member.sum(0))


@dataclass(kw_only=True, eq=False)
class ChannelStatic(OnePassRule):
    """Cross-entropy of the goodness of channel groups. No parameters; the buffer `groups` (K,) assigns the channels."""

    goodness: Literal["mean", "squared"] = "mean"
    """Goodness of a channel: its mean activation (DeeperForward) or mean square (CwC)."""
    scale: float = 1.0
    """Inverse temperature of the softmax: a factor on the scores."""
    label_smoothing: float = 0.0
    """Label smoothing: share of the target spread evenly over all classes."""

    training_defaults = MappingProxyType({"learning_rate": 0.02, "clip": 1.0})
    normalises = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale <= 0 or not 0 <= self.label_smoothing < 1:
            raise ValueError("scale must be positive, and label_smoothing from 0 to below 1.")

    def setup(self, shape: tuple[int, ...], position: BlockPosition) -> None:
        self.groups = nn.Buffer(group_index(shape[0], self.classes))

    def scores(self, activation: Tensor) -> Tensor:
        with torch.autocast(activation.device.type, enabled=False):
            return self.scale * group_scores(activation, self.groups, self.classes, self.goodness)

    def loss(self, activation: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.scores(activation), labels, label_smoothing=self.label_smoothing)

    def pass_on(self, activation: Tensor) -> Tensor:
        return group_norm(activation, self.groups, self.classes)
