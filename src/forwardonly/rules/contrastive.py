"""The interface of rules that compare a positive with a negative stream, by a goodness.

What makes the streams: labels (`ContrastiveRule`), or the images themselves (`unlabelled.py`).

Shapes: B batch; an activation is (B, D) or (B, K, H, W).
"""

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from forwardonly.rules.base import PeerGoodness, PeersNeeded, Rule, unit_rms


@dataclass(kw_only=True, eq=False)
class TwoStreamRule(Rule):
    """A rule that compares the goodness of a positive and a negative stream."""

    size: Literal["rms", "length"] = "rms"
    """Normalise images and activations to a root mean square of 1, or to a length of 1 as Hinton does."""

    @property
    def needs_peers(self) -> PeersNeeded:
        """The other blocks whose goodness the loss needs."""
        return "none"

    def normalise(self, values: Tensor) -> Tensor:
        """Images or activations (B, ...) divided by their root mean square or their length."""
        unit = unit_rms(values)
        return unit if self.size == "rms" else unit / math.sqrt(values[0].numel())

    def pass_on(self, activation: Tensor) -> Tensor:
        return self.normalise(activation)

    def goodness(self, activation: Tensor) -> Tensor:
        """The goodness of each example, (B,) in float32."""
        raise NotImplementedError

    def loss(self, positive: Tensor, negative: Tensor, peers: PeerGoodness | None) -> Tensor:
        """The block's own loss from its goodness on both streams, each (B,); a scalar in float32."""
        raise NotImplementedError

    def local_loss(
        self, activation: Tensor, labels: Tensor, peers: PeerGoodness | None
    ) -> tuple[Tensor, PeerGoodness | None]:
        """See `Rule`; `activation` (2B, ...) is the positive stream followed by the negative one."""
        own = self.streams(activation)
        return self.loss(own.positive, own.negative, peers), PeerGoodness(own.positive.detach(), own.negative.detach())

    def streams(self, activation: Tensor) -> PeerGoodness:
        """The goodness (B,) of both halves of an activation (2B, ...), still attached to the graph."""
        positive, negative = self.goodness(activation).chunk(2)
        return PeerGoodness(positive, negative)

    def unaided(self, positive: Tensor, negative: Tensor) -> Tensor:
        """The loss without peers, the reference for measuring free-riding."""
        return self.loss(positive, negative, None)


@dataclass(kw_only=True, eq=False)
class ContrastiveRule(TwoStreamRule):
    """A rule whose positive stream is the images with their labels, and whose negative one has wrong labels."""

    label_value: float | None = None
    """Value of the label code's "1" in the input; none takes the largest value that a pixel can have."""
    label_placement: Literal["first", "everywhere"] = "first"
    """Placement of the label code: in the first features, or as a wave over the whole image, visible to
    convolutions."""
    normalise_input: bool = False
    """Normalise each image before the label code is written into it."""

    def require_shape(self, shape: tuple[int, ...]) -> None:
        if self.label_placement == "everywhere" and len(shape) != 3:
            raise ValueError(f"label_placement everywhere needs pictures, and the network takes {shape}: choose first.")

    def label_one(self, largest: float) -> float:
        """The value of the label code's "1" in images whose pixels are at most `largest`."""
        return largest if self.label_value is None else self.label_value
