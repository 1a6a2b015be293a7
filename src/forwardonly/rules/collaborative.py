"""Collaborative Forward-Forward (F-CFF and A-CFF). Beigzad 2025, "NetworkFF", arXiv 2512.17531.

A block's loss sees its own goodness and, weighted by gamma, that of the other blocks: G_l + gamma_l sum alpha_lk G_k
(equation 5) in 1/2 [softplus(-G(pos)) + softplus(G(neg))] (equation 8). Given by the paper: both equations, gamma = 1 for
ever (fixed) or learned by gradient descent with a rate of its own, 0.01, from 1 (adaptive, equation 7). The paper is silent
on the rest, so it is ours and an option: alpha = 1, no gradient through the others' goodness, goodness is the mean of
squares, and a threshold is taken from the sum although equation 8 has none (threshold 0 is that equation to the letter).

Shapes: B batch, L blocks.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from forwardonly.rules.base import ContrastiveRule, Heard, Place, Wants, unit_rms
from forwardonly.rules.ff import goodness, threshold_loss


def collective_goodness(own: Tensor, others: Tensor, gamma: Tensor | float, alpha: Tensor) -> Tensor:
    """G_l + gamma sum_k alpha_k G_k, equation 5: own (B,), others (L, B), alpha (L,) -> (B,)."""
    return own + gamma * (alpha[:, None] * others).sum(0)


@dataclass(kw_only=True, eq=False)
class CollaborativeFixed(ContrastiveRule):
    """F-CFF: every block hears the others with a fixed gamma. The buffers `gamma` () and `alpha` (L,) are the block's."""

    threshold: float = 2.0
    """Collective goodness that separates positive from negative; 0 is equation 8 to the letter."""
    initial_gamma: float = 1.0
    """Weight of the other blocks' goodness; where gamma is learned, the weight at the start."""
    weights: tuple[float, ...] = (1.0,)
    """Weights alpha: one for all, or row by row the L x L matrix of how much block l hears block k."""
    hears: Literal["all", "earlier"] = "all"
    """Which other blocks take part."""
    stop_gradient: bool = True
    """Treat the others' goodness as given; else a block's loss also moves the others' weights, in simultaneous training."""
    reduction: Literal["mean", "sum"] = "mean"
    """Goodness is the mean or the sum of squared activations."""

    standardise = False
    normalises = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threshold < 0:
            raise ValueError(f"threshold must be 0 or more, not {self.threshold}.")
        if not self.stop_gradient and self.hears != "all":
            raise ValueError("Only a block that hears all others can move their weights: stop_gradient needs hears all.")

    @property
    def wants(self) -> Wants:
        return self.hears

    def setup(self, shape: tuple[int, ...], place: Place) -> None:
        if len(self.weights) not in (1, place.depth**2):
            raise ValueError(
                f"weights must be one number or {place.depth} x {place.depth} of them, not {len(self.weights)}."
            )
        matrix = torch.tensor(self.weights).expand(place.depth**2).view(place.depth, place.depth)
        alpha = matrix[place.index].clone()
        alpha[place.index :] *= self.hears == "all"
        alpha[place.index] = 0.0  # its own row among those it hears
        self.register_buffer("alpha", alpha)
        self.gamma: Tensor
        self.register_gamma(torch.tensor(self.initial_gamma))

    def register_gamma(self, gamma: Tensor) -> None:
        """Gamma is a constant of the block."""
        self.register_buffer("gamma", gamma)

    def goodness(self, activation: Tensor) -> Tensor:
        return goodness(activation, self.reduction)

    def loss(self, positive: Tensor, negative: Tensor, heard: Heard | None) -> Tensor:
        if heard is not None:
            positive, negative = self.collective(positive, heard.positive), self.collective(negative, heard.negative)
        return threshold_loss(positive, negative, self.threshold) / 2

    def collective(self, own: Tensor, others: Tensor) -> Tensor:
        """Equation 5 for one stream: own (B,), others (L or fewer, B) -> (B,)."""
        alpha = self.get_buffer("alpha")[: len(others)]
        return collective_goodness(own, others.detach() if self.stop_gradient else others, self.gamma, alpha)

    def pass_on(self, activation: Tensor) -> Tensor:
        return unit_rms(activation)


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
    def wants(self) -> Wants:
        return self.hears if self.gamma_scales == "others" else "none"

    def register_gamma(self, gamma: Tensor) -> None:
        """Gamma is a parameter of the block."""
        self.register_parameter("gamma", nn.Parameter(gamma))

    def loss(self, positive: Tensor, negative: Tensor, heard: Heard | None) -> Tensor:
        if self.gamma_scales == "own":
            return threshold_loss(self.gamma * positive, self.gamma * negative, self.threshold) / 2
        return super().loss(positive, negative, heard)

    def optimiser_options(self) -> dict[str, dict[str, Any]]:
        plain = {"lr": self.gamma_rate, "weight_decay": 0.0, "momentum": 0.0}
        return {"gamma": {"optimiser": self.gamma_optimiser, **plain}}

    def watched(self) -> dict[str, float]:
        return {"gamma": self.gamma.item()}
