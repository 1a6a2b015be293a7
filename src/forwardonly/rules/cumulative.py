"""Cumulative goodness and the remedies for free-riding. Yousefiramandi 2026, arXiv 2605.06240.

The loss of a block is softplus(-beta M) of its cumulative margin M = m + gamma P, where m = g(x, y+) - g(x, y-) is its
own margin and P the detached sum of the margins of all blocks before it. Where P is already large the gradient vanishes
and the block learns nothing: free-riding. Given: the loss, beta = 4, gamma = 0.7, and each remedy. Reconstruction: the
gate's "previous cumulative goodness" is the sum of the earlier blocks' goodness on that stream.

Shapes: B batch, L blocks.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from forwardonly.rules.base import BlockPosition, PeerGoodness, PeersNeeded
from forwardonly.rules.contrastive import ContrastiveRule
from forwardonly.rules.ff import goodness, margin_loss

Remedy = Literal["none", "per-block", "gated", "depth-scaled", "mgc"]


def gate(cumulative: Tensor, gamma: float, tau: float, kappa: float) -> Tensor:
    """gamma sigmoid(tau (kappa - S)): the weight of the cumulative goodness S (B,), which falls as S grows."""
    return gamma * torch.sigmoid(tau * (kappa - cumulative))


def hardness_weights(prior: Tensor, beta: float) -> Tensor:
    """sigmoid(-beta P) divided by its batch mean: (B,) -> (B,)."""
    weights = torch.sigmoid(-beta * prior)
    return weights / weights.mean()


def depth_weight(position: BlockPosition) -> float:
    """lambda_d = 0.25 (1 + 3 d / (L - 1)): 0.25 for the first block, 1 for the last."""
    return 0.25 * (1 + 3 * position.index / max(position.depth - 1, 1))


def missing_share(margin: Tensor, cumulative: Tensor, beta: float) -> Tensor:
    """lambda_i = max(0, 1 - sigmoid(-beta M) / sigmoid(-beta m)), detached: the share that m's gradient lost."""
    log_ratio = F.logsigmoid(-beta * cumulative) - F.logsigmoid(-beta * margin)
    return (1 - log_ratio.exp()).clamp_min(0).detach()


@dataclass(kw_only=True, eq=False)
class Cumulative(ContrastiveRule):
    """Margin loss on the goodness accumulated over blocks, with or without a remedy for free-riding."""

    remedy: Literal["none", "per-block", "gated", "depth-scaled", "mgc"] = "none"
    """Remedy for free-riding; per-block ignores the earlier blocks."""
    gamma: float = 0.7
    """Weight of the earlier blocks' margins."""
    beta: float = 4.0
    """Inverse temperature of the loss."""
    tau: float = 1.0
    """Inverse temperature of the gate (remedy gated)."""
    kappa: float = 0.0
    """Cumulative goodness at which the gate is half open (remedy gated)."""

    expert = frozenset({"tau", "kappa", "size"})
    standardise = False
    normalises = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gamma < 0 or self.beta <= 0:
            raise ValueError(f"gamma must be 0 or more and beta positive, not {self.gamma} and {self.beta}.")

    @property
    def needs_peers(self) -> PeersNeeded:
        return "none" if self.remedy == "per-block" else "earlier"

    def setup(self, shape: tuple[int, ...], position: BlockPosition) -> None:
        self.position = position

    def goodness(self, activation: Tensor) -> Tensor:
        return goodness(activation)

    def loss(self, positive: Tensor, negative: Tensor, peers: PeerGoodness | None) -> Tensor:
        margin, prior, cumulative = self.margins(positive, negative, peers)
        loss = F.softplus(-self.beta * cumulative)
        own = F.softplus(-self.beta * margin)
        if self.remedy == "depth-scaled":
            loss = loss + depth_weight(self.position) * hardness_weights(prior, self.beta) * own
        if self.remedy == "mgc":
            loss = loss + missing_share(margin, cumulative, self.beta) * own
        return loss.mean()

    def margins(self, positive: Tensor, negative: Tensor, peers: PeerGoodness | None) -> tuple[Tensor, Tensor, Tensor]:
        """The block's own margin m, the sum P of earlier blocks' margins, and the cumulative margin M; each (B,)."""
        margin = positive - negative
        if peers is None or self.remedy == "per-block":
            return margin, torch.zeros_like(margin), margin
        before = PeerGoodness(peers.positive.detach().sum(0), peers.negative.detach().sum(0))
        prior = before.positive - before.negative
        if self.remedy == "gated":
            counted = [gate(stream, self.gamma, self.tau, self.kappa) * stream for stream in before]
            return margin, prior, margin + counted[0] - counted[1]
        return margin, prior, margin + self.gamma * prior

    def unaided(self, positive: Tensor, negative: Tensor) -> Tensor:
        return margin_loss(positive, negative, self.beta)
