"""Layer collaboration. Lorberbom, Gat, Adi, Schwing, Hazan 2024, "Layer Collaboration in the Forward-Forward
Algorithm", arXiv 2305.12393 (AAAI 2024).

A block's probability of "positive" counts the other blocks' goodness as a given: p_l = sigmoid(|f_l|^2 + sg(sum
|f_t|^2) - theta), over all other blocks t or the earlier ones, all blocks being trained in alternation. Known to us
second-hand; ours: theta = 2, and alternation a batch at a time. What Forward-Forward leaves open is as in
`ForwardForward`, its tuned defaults among it; sharpness 1 and the sum of squares make p_l the paper's.

Shapes: B batch.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from forwardonly.rules.base import BlockPosition, PeerGoodness, PeersNeeded
from forwardonly.rules.ff import ForwardForward


@dataclass(kw_only=True, eq=False)
class LayerCollaboration(ForwardForward):
    """Forward-Forward's threshold loss on the summed goodness of several blocks, of which only one learns."""

    peers: Literal["all", "earlier"] = "all"
    """Which other blocks count."""

    def setup(self, shape: tuple[int, ...], position: BlockPosition) -> None:
        self.position = position

    @property
    def needs_peers(self) -> PeersNeeded:
        return self.peers

    def loss(self, positive: Tensor, negative: Tensor, peers: PeerGoodness | None = None) -> Tensor:
        """-log p(positive) - log(1 - p(negative)), averaged over the batch."""
        if peers is not None:
            positive, negative = positive + self.others(peers.positive), negative + self.others(peers.negative)
        return super().loss(positive, negative)

    def others(self, rows: Tensor) -> Tensor:
        """The other blocks' goodness as a given: (blocks, B) -> (B,)."""
        counted = torch.arange(len(rows), device=rows.device) != self.position.index
        return rows.detach()[counted].sum(0)
