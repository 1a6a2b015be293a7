"""A read-out made of a pretrained model's own head, so that each block starts from what the model knows.

The tuned lens (Belrose et al. 2023, arXiv 2303.08112): an affine map of a block's activation, then the model's final
norm and its head. Given: the map, which starts as the identity. Ours: that it is the read-out of a local loss, and that
each block has a copy of the final norm.
"""

import copy

import torch.nn.functional as F
from torch import Tensor, nn


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

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) -> (B, C) in float32, computed as the model computes its own."""
        (head,) = self._head
        if self.translator is not None:
            features = features + self.translator(features)
        bias = None if head.bias is None else head.bias.detach().to(features.device)
        return F.linear(self.norm(features), head.weight.detach().to(features.device), bias).float()
