"""Layer collaboration. Lorberbom, Gat, Adi, Schwing, Hazan 2024, "Layer Collaboration in the Forward-Forward Algorithm",
arXiv 2305.12393 (AAAI 2024).

A block's probability of "positive" counts the other blocks' goodness as a given: p_l = sigmoid(|f_l|^2 + sg(sum |f_t|^2)
- theta), over all other blocks t or the earlier ones, all blocks being trained in alternation. Known to us second-hand;
ours: the mean of squares in place of their sum (a constant factor), theta = 2 with it, and alternation a batch at a time.

Shapes: B batch.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from forwardonly.rules.base import ContrastiveRule, Heard, Place, Wants, unit_rms
from forwardonly.rules.ff import goodness, threshold_loss


@dataclass(kw_only=True, eq=False)
class LayerCollaboration(ContrastiveRule):
    """Forward-Forward's threshold loss on the summed goodness of several blocks, of which only one learns."""

    hears: Literal["all", "earlier"] = "all"
    """Which other blocks count."""
    threshold: float = 2.0
    """Summed goodness that separates positive from negative."""
    reduction: Literal["mean", "sum"] = "mean"
    """Goodness is the mean or the sum of squared activations."""

    standardise = False
    normalises = True

    def setup(self, shape: tuple[int, ...], place: Place) -> None:
        self.place = place

    @property
    def wants(self) -> Wants:
        return self.hears

    def goodness(self, activation: Tensor) -> Tensor:
        return goodness(activation, self.reduction)

    def loss(self, positive: Tensor, negative: Tensor, heard: Heard | None) -> Tensor:
        """-log p(positive) - log(1 - p(negative)), averaged over the batch."""
        if heard is not None:
            positive, negative = positive + self.others(heard.positive), negative + self.others(heard.negative)
        return threshold_loss(positive, negative, self.threshold)

    def others(self, rows: Tensor) -> Tensor:
        """The other blocks' goodness as a given: (blocks, B) -> (B,)."""
        counted = torch.arange(len(rows), device=rows.device) != self.place.index
        return rows.detach()[counted].sum(0)

    def pass_on(self, activation: Tensor) -> Tensor:
        return unit_rms(activation)
