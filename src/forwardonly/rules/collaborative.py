"""Collaborative Forward-Forward (F-CFF and A-CFF). Beigzad 2025, "NetworkFF", arXiv 2512.17531.

A block's loss sees its own goodness and, weighted by gamma, that of the other blocks: G_l + gamma_l sum alpha_lk G_k
(equation 5) in 1/2 [softplus(-G(pos)) + softplus(G(neg))] (equation 8). Given by the paper: both equations, gamma = 1
for ever (fixed) or learned by gradient descent with a rate of its own, 0.01, from 1 (adaptive, equation 7). The paper
is silent on the rest, so it is ours and an option: alpha = 1, no gradient through the others' goodness, and the
threshold is taken from the sum although equation 8 has none. All that Forward-Forward leaves open is as in
`ForwardForward`, its tuned defaults among it; sharpness 1, uniform negatives and inputs as they are make the paper's
loss.

Shapes: B batch, L blocks.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from forwardonly.rules.base import BlockPosition, PeerGoodness, PeersNeeded
from forwardonly.rules.ff import ForwardForward


def collective_goodness(own: Tensor, others: Tensor, gamma: Tensor | float, alpha: Tensor) -> Tensor:
    """G_l + gamma sum_k alpha_k G_k, equation 5: own (B,), others (L, B), alpha (L,) -> (B,)."""
    return own + gamma * (alpha[:, None] * others).sum(0)


@dataclass(kw_only=True, eq=False)
class CollaborativeFixed(ForwardForward):
    """F-CFF: every block hears the others with a fixed gamma. The buffers `gamma` () and `alpha` (L,) are the
    block's."""

    initial_gamma: float = 1.0
    """Weight of the other blocks' goodness; where gamma is learned, the weight at the start."""
    weights: tuple[float, ...] = (1.0,)
    """Weights alpha: one for all, or row by row the L x L matrix of how much block l hears block k."""
    peers: Literal["all", "earlier"] = "all"
    """Which other blocks take part."""
    stop_gradient: bool = True
    """Treat the others' goodness as given; else a block's loss also moves the others' weights, in simultaneous
    training."""
    threshold_enters: bool = True
    """Take the threshold from the collective goodness; equation 8 to the letter does not."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.stop_gradient and self.peers != "all":
            raise ValueError(
                "Only a block that hears all others can move their weights: stop_gradient needs peers all."
            )

    @property
    def needs_peers(self) -> PeersNeeded:
        return self.peers

    def setup(self, shape: tuple[int, ...], position: BlockPosition) -> None:
        if len(self.weights) not in (1, position.depth**2):
            raise ValueError(
                f"weights must be one number or {position.depth} x {position.depth} of them, not {len(self.weights)}."
            )
        matrix = torch.tensor(self.weights).expand(position.depth**2).view(position.depth, position.depth)
        alpha = matrix[position.index].clone()
        alpha[position.index :] *= self.peers == "all"
        alpha[position.index] = 0.0  # its own row among those it hears
        self.register_buffer("alpha", alpha)
        self.gamma: Tensor
        self.register_gamma(torch.tensor(self.initial_gamma))

    def register_gamma(self, gamma: Tensor) -> None:
        """Gamma is a constant of the block."""
        self.register_buffer("gamma", gamma)

    def loss(self, positive: Tensor, negative: Tensor, peers: PeerGoodness | None = None) -> Tensor:
        if peers is not None:
            positive, negative = self.collective(positive, peers.positive), self.collective(negative, peers.negative)
        offset = 0.0 if self.threshold_enters else self.threshold
        return super().loss(positive + offset, negative + offset) / 2

    def collective(self, own: Tensor, others: Tensor) -> Tensor:
        """Equation 5 for one stream: own (B,), others (L or fewer, B) -> (B,)."""
        alpha = self.get_buffer("alpha")[: len(others)]
        return collective_goodness(own, others.detach() if self.stop_gradient else others, self.gamma, alpha)


@dataclass(kw_only=True, eq=False)
class CollaborativeAdaptive(CollaborativeFixed):
    """A-CFF: gamma is the block's own learned number, stepped down the gradient of its loss (equation 7)."""

    gamma_rate: float = 0.01
    """Learning rate of gamma."""
    gamma_optimiser: str = "sgd"
    """Optimiser of gamma: the name of any class in torch.optim; plain sgd is equation 7."""
    gamma_scales: Literal["others", "own"] = "others"
    """What gamma multiplies: the others' goodness, or, as an ablation without any collaboration, the block's own."""

    @property
    def needs_peers(self) -> PeersNeeded:
        return self.peers if self.gamma_scales == "others" else "none"

    def register_gamma(self, gamma: Tensor) -> None:
        """Gamma is a parameter of the block."""
        self.register_parameter("gamma", nn.Parameter(gamma))

    def loss(self, positive: Tensor, negative: Tensor, peers: PeerGoodness | None = None) -> Tensor:
        if self.gamma_scales == "own":
            return super().loss(self.gamma * positive, self.gamma * negative)
        return super().loss(positive, negative, peers)

    def optimiser_options(self) -> dict[str, dict[str, Any]]:
        plain = {"lr": self.gamma_rate, "weight_decay": 0.0, "momentum": 0.0}
        return {"gamma": {"optimiser": self.gamma_optimiser, **plain}}

    def watched(self) -> dict[str, float]:
        return {"gamma": self.gamma.item()}
