"""Similarity matching with a local prediction. Nokland & Eidnes 2019, "Training Neural Networks with Local Error
Signals", arXiv 1901.06656.

Examples of one class should look alike to each block, those of two classes different. Given: the cosine similarity of
centred features, for maps of the deviation of each channel over space after a 3x3 convolution of the loss's own; the
mean squared difference from the similarity of one-hot labels; cross-entropy of a pooled linear read-out beside it,
weighed 0.01 to 0.99.

Shapes: B batch, C classes, K channels, D features.
"""

from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from forwardonly.rules.base import BlockPosition, float32
from forwardonly.rules.projection import Projection


def cosine_similarity(features: Tensor) -> Tensor:
    """Cosine between all pairs of examples, features centred for each: (B, D) -> (B, B)."""
    centred = features - features.mean(1, keepdim=True)
    unit = F.normalize(centred, dim=1)
    return unit @ unit.T


def similarity_loss(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Mean squared difference between the similarities of features (B, D) and of one-hot labels (B,)."""
    target = cosine_similarity(F.one_hot(labels, classes).float())
    return F.mse_loss(cosine_similarity(features), target)


@dataclass(kw_only=True, eq=False)
class Similarity(Projection):
    """Similarity matching plus a linear read-out. Owns `head`, and for maps a 3x3 convolution `lens`, for flat
    features a linear one.
    """

    prediction: float = 0.01
    """Weight of the read-out's cross-entropy; similarity matching has the rest up to 1."""
    own_map: bool = True
    """Compare examples after a trained map of the loss's own: a 3x3 convolution, or a linear layer on flat features."""

    training_defaults = MappingProxyType({"learning_rate": 5e-3})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.prediction <= 1:
            raise ValueError(
                f"prediction is a weight above 0 and up to 1, not {self.prediction}: it trains the scores."
            )

    def setup(self, shape: tuple[int, ...], position: BlockPosition) -> None:
        super().setup(shape, position)
        self.lens: nn.Module = nn.Identity()
        if self.own_map and len(shape) == 3:
            self.lens = nn.Conv2d(shape[0], shape[0], 3, padding=1, bias=False)
        elif self.own_map:
            self.lens = nn.Linear(shape[0], shape[0], bias=False)

    def compared(self, activation: Tensor) -> Tensor:
        """What examples are compared by, (B, K) in float32: the deviation of each channel, or flat features."""
        seen = float32(self.lens(activation))
        if seen.dim() == 2 or seen.shape[2] * seen.shape[3] == 1:
            return seen.flatten(1)
        variance = seen.flatten(2).var(2)
        return (variance + 1e-6).sqrt()

    def loss(self, activation: Tensor, labels: Tensor) -> Tensor:
        features = self.compared(activation)
        with torch.autocast(activation.device.type, enabled=False):
            matching = similarity_loss(features, labels, self.classes)
        return (1 - self.prediction) * matching + self.prediction * super().loss(activation, labels)
