"""Layer collaboration. Lorberbom, Gat, Adi, Schwing, Hazan 2024, "Layer Collaboration in the Forward-Forward
Algorithm", arXiv 2305.12393 (AAAI 2024).

The probability of "positive" in a block includes the detached goodness of other blocks: p_l = sigmoid(|f_l|^2 +
sg(sum |f_t|^2) - theta), over all other blocks t or the earlier ones. Given (read second-hand): this equation, and
blocks that are trained in alternation. Ours: theta = 2, and that all blocks learn from every batch. The defaults of
Forward-Forward's options are the tuned ones of `ForwardForward`; the paper's are sharpness 1 and the sum of squares.

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
    """Forward-Forward's loss on the goodness of a block plus the detached goodness of its peers."""

    peers: Literal["all", "earlier"] = "all"
    """Blocks whose goodness is added: all others, or those before the block."""

    expert = ForwardForward.expert | {"objective"}

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
        """The detached sum of the other blocks' goodness: (blocks, B) -> (B,)."""
        rows, own = rows.detach(), self.position.index
        return torch.cat([rows[:own], rows[own + 1 :]]).sum(0)  # a mask would make a GPU wait for its count
