"""Goodness under every label: the work that all candidate labels share is done once.

Images that differ only in their label differ in C input features. The first layer is affine, so its output is that of
the image without a label plus a shift for each label, which is the same for all images. The rest of the first block and
all other blocks are computed for every candidate; small batches take several candidates at a time.

Shapes: B batch, C classes, L blocks, G candidates at a time.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from forwardonly.network.block import Block
from forwardonly.network.signal import Signal
from forwardonly.rules import ContrastiveRule

ROWS = 2048  # candidates in one pass: enough to keep a processor busy, few enough to stay in its caches


def goodness_by_label(row: Sequence[Block], unlabelled: Tensor, codes: Tensor) -> Tensor:
    """Every block's goodness under every label, (L, B, C).

    Args:
        row: blocks with contrastive rules.
        unlabelled: images (B, ...) whose label features are zero.
        codes: each label on a blank image, (C, ...), so that their sum is a labelled image.
    """
    batch = unlabelled.shape[0]
    group = max(1, ROWS // max(batch, 1)) if isinstance(batch, int) else 1  # an exported graph knows no batch size
    first = FirstLayer(row[0], unlabelled)
    parts = []
    for some in codes.split(group):
        activation, signal = first(some)
        rows = []
        for index, block in enumerate(row):
            if index:
                activation = block(signal)
            assert isinstance(block.rule, ContrastiveRule)
            rows.append(block.rule.goodness(activation).unflatten(0, (some.shape[0], -1)))
            if index + 1 < len(row):
                signal = block.pass_on(activation, signal)
        parts.append(torch.stack(rows))
    return torch.cat(parts, dim=1).transpose(1, 2)


class FirstLayer:
    """The first block on images under several labels; computes its affine part, if the body begins with one, once."""

    def __init__(self, block: Block, unlabelled: Tensor):
        self.block = block
        self.unlabelled = unlabelled
        affine, self.rest = leading_affine(block.body)
        self.affine = affine if block.join is None else None  # a join needs the labelled images themselves
        if self.affine is not None:
            self.product = self.affine(unlabelled.flatten(1) if isinstance(self.affine, nn.Linear) else unlabelled)

    def __call__(self, codes: Tensor) -> tuple[Tensor, Signal]:
        """The activation (G B, ...) under labels with these codes (G, ...), and the block's input, for its join."""
        if self.affine is None:
            labelled = (codes.unsqueeze(1) + self.unlabelled).flatten(0, 1)
            return self.block(labelled), labelled
        shift = self._shift(codes)
        return self.rest((shift.unsqueeze(1) + self.product).flatten(0, 1)), self.unlabelled

    def _shift(self, codes: Tensor) -> Tensor:
        """The shift of the affine output under labels with these codes (G, ...)."""
        if isinstance(self.affine, nn.Linear):
            return F.linear(codes.flatten(1), self.affine.weight)
        conv = self.affine
        assert conv is not None
        return F.conv2d(codes, conv.weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)


def leading_affine(body: nn.Module) -> tuple[nn.Linear | nn.Conv2d | None, nn.Module]:
    """The linear layer or zero-padded convolution that a body begins with, and the rest of it; None if with neither."""
    if isinstance(body, nn.Sequential):
        parts = list(body)
        flat = isinstance(parts[0], nn.Flatten)
        first, rest = parts[int(flat)], nn.Sequential(*parts[int(flat) + 1 :])
        if isinstance(first, nn.Linear) and flat:
            return first, rest
        if isinstance(first, nn.Conv2d) and first.padding_mode == "zeros" and not flat:
            return first, rest
    return None, nn.Identity()
