"""A read-out made of a pretrained model's own head, so that each block starts from what the model knows.

The tuned lens (Belrose et al. 2023, arXiv 2303.08112): an affine map of a block's activation, then the model's final
norm and its head. Given: the map, which starts as the identity. Ours: that it is the read-out of a local loss, and that
each block has a copy of the final norm.
"""

import copy
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

ROWS = 128
"""Positions whose scores are in memory at a time while a loss is computed: 128 x 50,000 words take 26 MB."""


class OwnHead(nn.Module):
    """Scores of words by a model's own head, which stays the model's and is not trained from here.

    Args:
        head: of the model, D -> C.
        norm: the model's last norm, which the last block computes itself; None where there is none before the head.
        last: whether it reads the last block, whose scores are then the model's own.
    """

    def __init__(self, head: nn.Linear, norm: nn.Module | None, last: bool):
        super().__init__()
        self._head = (head,)  # in a tuple, or it would be saved and trained with each block
        self.norm: nn.Module = nn.Identity() if norm is None or last else copy.deepcopy(norm)
        self.translator = None if last else nn.Linear(head.in_features, head.in_features)
        if self.translator is not None:
            nn.init.zeros_(self.translator.weight)
            nn.init.zeros_(self.translator.bias)

    @property
    def borrowed(self) -> list[nn.Parameter]:
        """The weights that are read and stay the model's."""
        return list(self._head[0].parameters())

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) -> (B, C) in float32, computed as the model computes its own."""
        (head,) = self._head
        if self.translator is not None:
            features = features + self.translator(features)
        bias = None if head.bias is None else head.bias.detach().to(features.device)
        return F.linear(self.norm(features), head.weight.detach().to(features.device), bias).float()

    def loss(self, features: Tensor, words: Tensor, smoothing: float) -> Tensor:
        """The mean cross-entropy of (B, D) and the words (B,); scores are computed again for the gradient."""
        if len(features) <= ROWS:
            return F.cross_entropy(self(features), words, label_smoothing=smoothing)
        total = features.new_zeros((), dtype=torch.float32)
        for start, end in pairwise([*range(0, len(features), ROWS), len(features)]):
            total = total + checkpoint(self._sum, features[start:end], words[start:end], smoothing, use_reentrant=False)
        return total / len(features)

    def _sum(self, features: Tensor, words: Tensor, smoothing: float) -> Tensor:
        return F.cross_entropy(self(features), words, label_smoothing=smoothing, reduction="sum")
