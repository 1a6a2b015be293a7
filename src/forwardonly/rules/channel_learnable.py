"""Learnable channel-class assignment (LCCA, "CAW-Conv"). Ghader, Kheradpisheh, Farahani & Fazlali 2026, arXiv
2606.09928.

Each channel votes for classes by a softmax row of its own, which sharpens as training goes on. All of it is given by
the paper and its authors' code, but: flat activations vote with their values (reconstruction), and orthogonality is
by default not divided by the further C^2 K of their code, which makes it inert.

Shapes: B batch, C classes, K channels (of flat activations: features).
"""

import math
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from forwardonly.maps import channel_scores, instance_norm
from forwardonly.rules.base import OnePassRule, Place


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

    recipe = MappingProxyType({"learning_rate": 0.02, "clip": 1.0})
    normalises = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.1 <= self.temperature <= 100 or not 0 < self.cooling <= 1:
            raise ValueError("temperature must be from 0.1 to 100, and cooling above 0 and up to 1.")

    def setup(self, shape: tuple[int, ...], place: Place) -> None:
        self.votes = nn.Parameter(torch.full((shape[0], self.classes), 0.5))
        self.log_temperature = nn.Parameter(torch.tensor(math.log(self.temperature)))
        self.epoch = nn.Buffer(torch.zeros(()))  # kept with the weights: scores depend on it

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
            return channel_scores(activation, self.mean_weight, self.max_weight, self.min_weight) @ self.assignment()

    def loss(self, activation: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(activation.device.type, enabled=False):
            assignment = self.assignment()
            pooled = channel_scores(activation, self.mean_weight, self.max_weight, self.min_weight)
            error = F.cross_entropy(pooled @ assignment, labels, label_smoothing=self.label_smoothing)
            overlap = orthogonality(assignment)
            if self.as_published:
                overlap = overlap / (self.classes**2 * len(assignment))
            rise = (self.epoch / self.warmup_epochs).clamp(max=1.0) if self.warmup_epochs else 1.0
            return error + self.entropy_weight * entropy(assignment) + self.orthogonality_weight * rise * overlap

    def pass_on(self, activation: Tensor) -> Tensor:
        return instance_norm(activation)
