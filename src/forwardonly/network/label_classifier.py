"""A softmax that reads a whole network's activations: one-pass prediction for contrastive rules.

Hinton 2022, arXiv 2212.13345: a linear softmax on the normalised activations of all blocks but the
first, under a neutral label; nothing flows back from it into the blocks.

Shapes: L blocks, B batch, C classes.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LabelClassifier(nn.Module):
    """One linear map a block; their sum is the logits. The first block is not read unless it is the only one."""

    def __init__(self, features: Sequence[int], classes: int):
        super().__init__()
        self.first = 1 if len(features) > 1 else 0
        self.maps = nn.ModuleList(nn.Linear(size, classes) for size in features[self.first :])

    def forward(self, passed: Sequence[Tensor]) -> Tensor:
        """Each block's share of the logits, (L, B, C), from what each block passes on."""
        parts = [read(signal.flatten(1)).float() for read, signal in zip(self.maps, passed[self.first :], strict=True)]
        return torch.stack([torch.zeros_like(parts[0])] * self.first + parts)

    def loss(self, passed: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Cross-entropy of the summed logits, averaged over the batch."""
        return F.cross_entropy(self(passed).sum(0), labels)
