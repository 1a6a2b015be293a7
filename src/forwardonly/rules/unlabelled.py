"""The interface of rules that learn without labels: they make both streams from the images of a batch.

Shapes: B batch; images are (B, K, H, W), prepared.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from forwardonly.rules.contrastive import TwoStreamRule


@dataclass(kw_only=True, eq=False)
class UnlabelledRule(TwoStreamRule):
    """A rule that draws its positive and negative stream from images alone."""

    classes: int = 0
    """Number of classes of the data, which the rule does not use."""

    labelled = False
    standardise = False
    normalises = True

    @property
    def views(self) -> int:
        """Augmented views of each image that a step needs: 1 or 2."""
        return 1

    def alone(self, images: Tensor) -> Tensor:
        """The first block's input for images (B, ...) that are looked at and not learned from."""
        return self.normalise(images)

    def pair(self, first: Tensor, second: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The positive and the negative stream, (B, ...) each, of two views of B images or twice the same view."""
        raise NotImplementedError


def others(count: int, generator: torch.Generator) -> Tensor:
    """For each of `count` images the index of another one, drawn uniformly, (count,); of a single one its own."""
    indices = torch.arange(count, device=generator.device)
    if count < 2:
        return indices
    shift = torch.randint(1, count, (count,), generator=generator, device=generator.device)
    return (indices + shift) % count
