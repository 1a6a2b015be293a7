"""Readouts: how the scores of all blocks become the network's.

Shapes: scores (L, B, C): blocks, batch, classes.
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

Kind = Literal["sum", "skip-first", "last"]


class Readout(nn.Module):
    """A fixed weighted sum over blocks: (L, B, C) -> (B, C). `weights` (L,) is kept with the model.

    Raises:
        ValueError: an unknown kind.
    """

    weights: Tensor

    def __init__(self, kind: Kind, depth: int):
        super().__init__()
        if kind not in get_args(Kind):
            raise ValueError(f"Unknown readout {kind!r}: choose one of {', '.join(get_args(Kind))}.")
        self.kind = kind
        weights = torch.ones(depth)
        if depth > 1 and kind == "skip-first":
            weights[0] = 0.0
        if kind == "last":
            weights[:-1] = 0.0
        self.register_buffer("weights", weights)

    def forward(self, scores: Tensor) -> Tensor:
        return torch.einsum("l,lbc->bc", self.weights, scores.float())
