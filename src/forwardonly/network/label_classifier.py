"""The label classifier: a linear softmax classifier of a network's activations, trained alongside the blocks.

Hinton 2022, arXiv 2212.13345: a linear softmax on the normalised activations of all blocks but the first, under a
neutral label; no gradient flows back into the blocks. It predicts in one pass under contrastive rules, and hard
negatives are drawn from its predictions.

Shapes: L blocks, B batch, C classes.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LabelClassifier(nn.Module):
    """One linear map per block; their sum is the logits. The first block is left out unless it is the only one."""

    def __init__(self, features: Sequence[int], classes: int):
        super().__init__()
        self.first = 1 if len(features) > 1 else 0
        self.maps = nn.ModuleList(nn.Linear(size, classes) for size in features[self.first :])

    def forward(self, passed: Sequence[Tensor]) -> Tensor:
        """Each block's share of the logits, (L, B, C), from the blocks' outputs."""
        parts = [
            linear(signal.flatten(1)).float() for linear, signal in zip(self.maps, passed[self.first :], strict=True)
        ]
        return torch.stack([torch.zeros_like(parts[0])] * self.first + parts)

    def loss(self, passed: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Cross-entropy of the summed logits, averaged over the batch."""
        return F.cross_entropy(self(passed).sum(0), labels)
