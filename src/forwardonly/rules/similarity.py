"""Similarity matching with a local prediction. Nokland & Eidnes 2019, "Training Neural Networks with Local Error
Signals", arXiv 1901.06656.

Activations of the same class should be similar, those of different classes dissimilar. Given: a layer of the loss's
own, a 3x3 convolution for feature maps; the cosine similarity of its centred outputs, for feature maps of each
channel's standard deviation over space; the mean squared difference from the similarity of one-hot labels; 0.99 of it
plus 0.01 of the cross-entropy of a linear classifier.

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
    """Cosine similarity of all pairs of examples, each centred over its features: (B, D) -> (B, B)."""
    centred = features - features.mean(1, keepdim=True)
    unit = F.normalize(centred, dim=1)
    return unit @ unit.T


def similarity_loss(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Mean squared difference between the similarity matrices of features (B, D) and of one-hot labels (B,)."""
    target = cosine_similarity(F.one_hot(labels, classes).float())
    return F.mse_loss(cosine_similarity(features), target)


@dataclass(kw_only=True, eq=False)
class Similarity(Projection):
    """Similarity matching plus cross-entropy of a linear classifier. Owns `classifier` and `transform`, a 3x3
    convolution for feature maps and a linear layer for flat activations.
    """

    prediction: float = 0.01
    """Weight of the cross-entropy in the loss; similarity matching has 1 minus it."""

    learns = frozenset({"class"})
    training_defaults = MappingProxyType({"learning_rate": 5e-3})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.prediction <= 1:
            raise ValueError(
                f"prediction is a weight above 0 and up to 1, not {self.prediction}: it trains the classifier."
            )

    def setup(self, shape: tuple[int, ...], position: BlockPosition) -> None:
        super().setup(shape, position)
        self.transform: nn.Module
        if len(shape) == 3:
            self.transform = nn.Conv2d(shape[0], shape[0], 3, padding=1, bias=False)
        else:
            self.transform = nn.Linear(shape[0], shape[0], bias=False)

    def compared(self, activation: Tensor) -> Tensor:
        """Features to be compared, (B, K) in float32: each channel's deviation over space, or flat features."""
        transformed = float32(self.transform(activation))
        if transformed.dim() == 2 or transformed.shape[2] * transformed.shape[3] == 1:
            return transformed.flatten(1)
        variance = transformed.flatten(2).var(2)
        return (variance + 1e-6).sqrt()

    def loss(self, activation: Tensor, labels: Tensor) -> Tensor:
        features = self.compared(activation)
        with torch.autocast(activation.device.type, enabled=False):
            matching = similarity_loss(features, labels, self.classes)
        return (1 - self.prediction) * matching + self.prediction * super().loss(activation, labels)
