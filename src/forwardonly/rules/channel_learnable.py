"""Learnable channel-class assignment (LCCA, "CAW-Conv"). Ghader, Kheradpisheh, Farahani & Fazlali 2026, arXiv
2606.09928.

Each channel contributes to the class scores by learned softmax weights, which sharpen during training. Given by the
paper and its authors' code: everything but the following. Reconstruction: on flat activations the score of a channel is
its value. Ours: the orthogonality term is not divided by the further C^2 K of their code, which makes it inert
(`as_published` divides), three options for short runs, `scale`, `lead` and `votes_rate`, and two for bodies with norms
of their own, `features` and `norm`.

Shapes: B batch, C classes, K channels (of flat activations: features), V votes: K, or K times the regions of a map.
"""

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from forwardonly.ops.assignments import entropy, orthogonality, region_index
from forwardonly.ops.norms import instance_norm
from forwardonly.ops.pooling import channel_scores, grid_for, grid_pool, grid_size
from forwardonly.rules.base import BlockPosition, OnePassRule, float32


@dataclass(kw_only=True, eq=False)
class ChannelLearnable(OnePassRule):
    """Cross-entropy of class scores g = p W, W = softmax(A/T). Owns `votes` A (V, C) and `log_temperature`."""

    mean_weight: float = 0.94
    """Weight of a channel's mean over space in its score (0.97 for MNIST in the paper)."""
    max_weight: float = 0.06
    """Weight of a channel's maximum over space in its score (MNIST: 0.03)."""
    min_weight: float = -0.05
    """Weight of a channel's minimum over space in its score (MNIST: -0.03)."""
    label_smoothing: float = 0.1
    """Label smoothing: share of the target spread evenly over all classes."""
    entropy_weight: float = 1e-2
    """Weight of the assignment's entropy in the loss; it makes channels commit to few classes."""
    orthogonality_weight: float = 1e-3
    """Weight of the orthogonality term in the loss, after its warm-up; it keeps the channels of classes apart."""
    warmup_epochs: int = 50
    """Warm-up of the orthogonality term: epochs over which its weight rises from 0."""
    as_published: bool = False
    """Divide the orthogonality term by a further C^2 K, as the authors' code does."""
    temperature: float = 10.0
    """Initial temperature of the assignment's softmax; it is learned, between 0.1 and 100."""
    cooling: float = 0.995
    """Factor by which the temperature falls with each epoch."""
    scale: float | None = None
    """Inverse temperature of scores that are means over V/C votes; none leaves them sums, as published, which are
    small where channels are few."""
    lead: float = 0.0
    """Initial advantage, in votes, of the class that `channel-static` assigns to a channel, or to a region where there
    are fewer channels than classes; the published votes start equal."""
    features: int | None = None
    """Split maps into regions, about this many over all channels; each region of a channel then has a vote of its own,
    with its mean as score. None for one vote a channel, as published."""
    norm: Literal["instance", "none"] = "instance"
    """Norm between blocks: instance norm, as published, which takes each channel's mean away; or none, where the body
    has norms of its own."""
    votes_rate: float | None = None
    """Learning rate of a separate AdamW for the votes and the temperature; none leaves them to the block's
    optimiser."""

    expert = frozenset(
        {
            "mean_weight",
            "max_weight",
            "min_weight",
            "entropy_weight",
            "orthogonality_weight",
            "warmup_epochs",
            "as_published",
            "cooling",
            "lead",
        }
    )
    not_sizes = frozenset({"features", "warmup_epochs"})
    training_defaults = MappingProxyType({"learning_rate": 0.02, "clip": 1.0})
    normalises = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.1 <= self.temperature <= 100 or not 0 < self.cooling <= 1:
            raise ValueError("temperature must be from 0.1 to 100, and cooling above 0 and up to 1.")
        for name in ("scale", "votes_rate", "features"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive or none, not {value}.")
        vars(self)["normalises"] = self.norm == "instance"

    def setup(self, shape: tuple[int, ...], position: BlockPosition) -> None:
        self.grid = None if self.features is None else grid_for(shape, self.features)
        count = shape[0] if self.grid is None else grid_size(shape, self.grid)
        self.regions = count // shape[0]
        votes = torch.full((count, self.classes), 0.5)
        if self.lead:
            votes += self.lead * F.one_hot(region_index(shape[0], self.regions, self.classes), self.classes)
        self.votes = nn.Parameter(votes)
        self.share = 1.0 if self.scale is None else self.scale * self.classes / count
        self.log_temperature = nn.Parameter(torch.tensor(math.log(self.temperature)))
        self.epoch = nn.Buffer(torch.zeros(()))  # saved with the weights, because scores depend on it

    def optimiser_options(self) -> dict[str, dict[str, Any]]:
        if self.votes_rate is None:
            return {}
        own = {"optimiser": "adamw", "lr": self.votes_rate, "weight_decay": 0.0}
        return {"votes": own, "log_temperature": dict(own)}

    def start_epoch(self, epoch: int) -> None:
        self.epoch.fill_(epoch)

    def watched(self) -> dict[str, float]:
        with torch.no_grad():
            return {"assignment_entropy": float(entropy(self.assignment())), "temperature": float(self._temperature())}

    def _temperature(self) -> Tensor:
        return self.log_temperature.exp().clamp(0.1, 100.0) * self.cooling**self.epoch

    def assignment(self) -> Tensor:
        """W (V, C); the row of each vote sums to 1."""
        return torch.softmax(self.votes / self._temperature(), dim=1)

    def scores(self, activation: Tensor) -> Tensor:
        with torch.autocast(activation.device.type, enabled=False):
            return self._scores(activation, self.assignment())

    def _scores(self, activation: Tensor, assignment: Tensor) -> Tensor:
        if self.grid is None:
            pooled = channel_scores(activation, self.mean_weight, self.max_weight, self.min_weight)
        else:
            pooled = float32(grid_pool(activation, self.grid))
        return self.share * (pooled @ assignment)

    def loss(self, activation: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(activation.device.type, enabled=False):
            assignment = self.assignment()
            error = F.cross_entropy(self._scores(activation, assignment), labels, label_smoothing=self.label_smoothing)
            overlap = orthogonality(assignment)
            if self.as_published:
                overlap = overlap / (self.classes**2 * len(assignment))
            rise = (self.epoch / self.warmup_epochs).clamp(max=1.0) if self.warmup_epochs else 1.0
            return error + self.entropy_weight * entropy(assignment) + self.orthogonality_weight * rise * overlap

    def pass_on(self, activation: Tensor) -> Tensor:
        return instance_norm(activation) if self.norm == "instance" else activation
