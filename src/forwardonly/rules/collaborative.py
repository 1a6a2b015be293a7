"""Collaborative Forward-Forward (F-CFF and A-CFF). Beigzad 2025, "NetworkFF", arXiv 2512.17531.

The loss of a block is that of its collective goodness, G_l + gamma_l sum alpha_lk G_k over the other blocks k (equation
5), in 1/2 [softplus(-G(pos)) + softplus(G(neg))] (equation 8). Given: both equations; gamma is 1 and fixed, or starts
at 1 and is learned by gradient descent with a learning rate of 0.01 (adaptive, equation 7). The paper leaves the rest
open, so it is ours and an option: alpha = 1, no gradient through the other blocks' goodness, and a threshold subtracted
from the collective goodness, which equation 8 does not have. The defaults of Forward-Forward's options are the tuned
ones of `ForwardForward`; `sharpness=1` makes the paper's loss, `negatives="fixed"` belongs to its protocol.

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
    """F-CFF: collaboration with a fixed gamma. Each block has buffers `gamma` () and `alpha` (L,)."""

    initial_gamma: float = 1.0
    """Gamma, the weight of the other blocks' goodness; its initial value where it is learned."""
    weights: tuple[float, ...] = (1.0,)
    """Weights alpha of the other blocks: one for all, or the L x L matrix alpha_lk row by row."""
    peers: Literal["all", "earlier"] = "all"
    """Blocks whose goodness enters the loss: all others, or those before the block."""
    stop_gradient: bool = True
    """Detach the other blocks' goodness; otherwise a block's loss also trains the other blocks, in simultaneous
    training."""
    threshold_enters: bool = True
    """Subtract the threshold from the collective goodness; equation 8 does not."""

    expert = ForwardForward.expert | {"objective", "label_value", "weights", "stop_gradient", "threshold_enters"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.stop_gradient and self.peers != "all":
            raise ValueError(
                "Without stop_gradient a block trains all other blocks, so stop_gradient=False needs peers='all'."
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
        alpha[position.index] = 0.0  # the block itself is among its peers
        self.register_buffer("alpha", alpha)
        self.gamma: Tensor
        self.register_gamma(torch.tensor(self.initial_gamma))

    def register_gamma(self, gamma: Tensor) -> None:
        """Makes gamma a constant of the block."""
        self.register_buffer("gamma", gamma)

    def loss(self, positive: Tensor, negative: Tensor, peers: PeerGoodness | None = None) -> Tensor:
        if peers is not None:
            positive, negative = self.collective(positive, peers.positive), self.collective(negative, peers.negative)
        offset = 0.0 if self.threshold_enters else self.threshold
        return super().loss(positive + offset, negative + offset) / 2

    def collective(self, own: Tensor, others: Tensor) -> Tensor:
        """Equation 5 on one stream: own (B,), others (L or fewer, B) -> (B,)."""
        alpha = self.get_buffer("alpha")[: len(others)]
        return collective_goodness(own, others.detach() if self.stop_gradient else others, self.gamma, alpha)


@dataclass(kw_only=True, eq=False)
class CollaborativeAdaptive(CollaborativeFixed):
    """A-CFF: each block learns its gamma by gradient descent on its own loss (equation 7)."""

    gamma_rate: float = 0.01
    """Learning rate of gamma."""
    gamma_scales: Literal["others", "own"] = "others"
    """Goodness that gamma multiplies: the other blocks', or as an ablation without collaboration the block's own."""

    expert = CollaborativeFixed.expert | {"gamma_scales", "sharpness"}

    @property
    def needs_peers(self) -> PeersNeeded:
        return self.peers if self.gamma_scales == "others" else "none"

    def register_gamma(self, gamma: Tensor) -> None:
        """Makes gamma a parameter of the block."""
        self.register_parameter("gamma", nn.Parameter(gamma))

    def loss(self, positive: Tensor, negative: Tensor, peers: PeerGoodness | None = None) -> Tensor:
        if self.gamma_scales == "own":
            return super().loss(self.gamma * positive, self.gamma * negative)
        return super().loss(positive, negative, peers)

    def optimiser_options(self) -> dict[str, dict[str, Any]]:
        return {"gamma": {"optimiser": "sgd", "lr": self.gamma_rate, "weight_decay": 0.0, "momentum": 0.0}}

    def watched(self) -> dict[str, float]:
        return {"gamma": self.gamma.item()}
