"""Learnable channel-class assignment (LCCA, "CAW-Conv"). Ghader, Kheradpisheh, Farahani & Fazlali 2026, arXiv
2606.09928.

Each channel votes for classes by a softmax row of its own, which sharpens as training goes on. All of it is given by
the paper and its authors' code, but: flat activations vote with their values (reconstruction), orthogonality is by
default not divided by the further C^2 K of their code, which makes it inert, and three options, for short runs, are
ours: `scale`, `lead` and `votes_rate`.

Shapes: B batch, C classes, K channels (of flat activations: features).
"""

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from forwardonly.ops.norms import group_index, instance_norm
from forwardonly.ops.pooling import channel_scores
from forwardonly.rules.base import BlockPosition, OnePassRule


def entropy(assignment: Tensor) -> Tensor:
    """Mean over channels of -sum_c W log W, in nats, of an assignment (K, C)."""
    return -torch.xlogy(assignment, assignment).sum(1).mean()


def orthogonality(assignment: Tensor) -> Tensor:
    """Mean over class pairs of (Wn^T Wn - I)^2, where Wn is W (K, C) with columns of unit length."""
    columns = F.normalize(assignment, dim=0)
    gram = columns.T @ columns
    return (gram - torch.eye(len(gram), device=gram.device)).square().mean()


@dataclass(kw_only=True, eq=False)
class ChannelLearnable(OnePassRule):
    """Cross-entropy of votes g = p W, W = softmax(A/T). Owns `votes` A (K, C) and `log_temperature`."""

    mean_weight: float = 0.94
    """Weight of a channel's mean in its score (the paper's for MNIST: 0.97)."""
    max_weight: float = 0.06
    """Weight of a channel's maximum in its score (MNIST: 0.03)."""
    min_weight: float = -0.05
    """Weight of a channel's minimum in its score (MNIST: -0.03)."""
    label_smoothing: float = 0.1
    """Share of the target spread evenly over all classes."""
    entropy_weight: float = 1e-2
    """Weight of the assignment's entropy, which makes channels commit to few classes."""
    orthogonality_weight: float = 1e-3
    """Weight of the overlap between classes' channels once the warm-up is over."""
    warmup_epochs: int = 50
    """Epochs over which the orthogonality's weight rises from 0."""
    as_published: bool = False
    """Divide orthogonality by a further C^2 K, as the authors' code does."""
    temperature: float = 10.0
    """Temperature of the assignment at the start; it is learned, between 0.1 and 100."""
    cooling: float = 0.995
    """Factor on the temperature with each epoch."""
    scale: float | None = None
    """Factor on the scores if a class's is the mean over its share of the channels, K/C; none takes their sum, as
    published, which is faint where channels are few."""
    lead: float = 0.0
    """Votes by which each channel's class among `channel-static`'s groups is ahead at the start; the published votes
    start equal."""
    votes_rate: float | None = None
    """Learning rate of the votes and the temperature, by an AdamW of their own; none leaves them to the block's
    optimiser."""

    training_defaults = MappingProxyType({"learning_rate": 0.02, "clip": 1.0})
    normalises = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.1 <= self.temperature <= 100 or not 0 < self.cooling <= 1:
            raise ValueError("temperature must be from 0.1 to 100, and cooling above 0 and up to 1.")
        for name in ("scale", "votes_rate"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive or none, not {value}.")

    def setup(self, shape: tuple[int, ...], position: BlockPosition) -> None:
        votes = torch.full((shape[0], self.classes), 0.5)
        if self.lead:
            votes += self.lead * F.one_hot(group_index(shape[0], self.classes), self.classes)
        self.votes = nn.Parameter(votes)
        self.share = 1.0 if self.scale is None else self.scale * self.classes / shape[0]
        self.log_temperature = nn.Parameter(torch.tensor(math.log(self.temperature)))
        self.epoch = nn.Buffer(torch.zeros(()))  # kept with the weights: scores depend on it

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
        """W (K, C); each channel's row sums to 1."""
        return torch.softmax(self.votes / self._temperature(), dim=1)

    def scores(self, activation: Tensor) -> Tensor:
        with torch.autocast(activation.device.type, enabled=False):
            return self._scores(activation, self.assignment())

    def _scores(self, activation: Tensor, assignment: Tensor) -> Tensor:
        pooled = channel_scores(activation, self.mean_weight, self.max_weight, self.min_weight)
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
        return instance_norm(activation)
