"""Forward-Forward without labels. Hinton 2022, arXiv 2212.13345, section 3.2.

Positive is an image, negative a hybrid of two: through a mask with large regions of ones and zeros, so that a hybrid is
like an image over short distances and unlike one over long ones. Given: the mask, which is random bits blurred several
times by [1/4, 1/2, 1/4] in both directions and thresholded at 1/2; goodness, threshold loss and length normalisation of
Forward-Forward; a linear classifier of all blocks but the first reads the network (`fo.probe`). Ours: how often the
mask is blurred, its wrapping round at the border, and the sharpness, all chosen on held-out images (log/).

Shapes: B batch, D features; images are (B, K, H, W).
"""

from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from forwardonly.rules.base import PeerGoodness
from forwardonly.rules.ff import goodness, threshold_loss
from forwardonly.rules.unlabelled import UnlabelledRule, others


def blurred(values: Tensor, times: int) -> Tensor:
    """Values (..., H, W) blurred by [1/4, 1/2, 1/4] down and across, `times` times, over a border that wraps round."""
    for _ in range(times):
        for axis in (-2, -1):
            values = values / 2 + (values.roll(1, axis) + values.roll(-1, axis)) / 4
    return values


def smooth_masks(count: int, height: int, width: int, times: int, generator: torch.Generator) -> Tensor:
    """Random masks with large regions of ones and zeros, (count, 1, height, width) bool."""
    bits = torch.rand(count, 1, height, width, generator=generator, device=generator.device).round()
    return blurred(bits, times) > 0.5


def hybrids(images: Tensor, partners: Tensor, masks: Tensor) -> Tensor:
    """Images (B, K, H, W) where the masks (B, 1, H, W) are true, and their partners elsewhere."""
    return torch.where(masks, images, partners)


@dataclass(kw_only=True, eq=False)
class ForwardForwardUnsupervised(UnlabelledRule):
    """Forward-Forward on images against hybrids of two images. It has no parameters of its own."""

    threshold: float = 2.0
    """Goodness that separates the positive from the negative stream."""
    sharpness: float = 10.0
    """Inverse temperature of the loss; 1 is Hinton's."""
    blurs: int = 6
    """Times that a mask is blurred: the more, the larger its regions."""

    expert = frozenset({"size"})
    not_sizes = frozenset({"blurs"})
    training_defaults = MappingProxyType({"batch_size": 100})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("threshold", "sharpness"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}.")
        if self.blurs < 0:
            raise ValueError(f"blurs must be 0 or more, not {self.blurs}.")

    def require_shape(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 3:
            raise ValueError(
                f"ff-unsupervised mixes pictures, and the network takes {shape}: choose another rule, such as "
                "self-contrastive."
            )

    def pair(self, first: Tensor, second: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        count, _, height, width = first.shape
        masks = smooth_masks(count, height, width, self.blurs, generator)
        mixed = hybrids(second, second[others(count, generator)], masks)
        return self.normalise(first), self.normalise(mixed)

    def goodness(self, activation: Tensor) -> Tensor:
        return goodness(activation)

    def loss(self, positive: Tensor, negative: Tensor, peers: PeerGoodness | None = None) -> Tensor:
        return threshold_loss(positive, negative, self.threshold, self.sharpness)
