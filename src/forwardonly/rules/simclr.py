"""SimCLR, backprop's baseline without labels. Chen, Kornblith, Norouzi, Hinton 2020, arXiv 2002.05709.

The whole body is one block, as under `backprop`. Given: two augmented views of each image, a projection head of two
layers, and the loss NT-Xent: each view is to be nearer to the other of its image, by cosine, than to all views of the
batch's other images. The head is discarded afterwards: `fo.probe` reads the body. Ours: the views are those of the
run's own augmentation (`--crop`, `--flip`, `--cutout`), without the paper's changes of colour; the head's size.

Shapes: B batch, D features.
"""

from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from forwardonly.ops.pooling import space_mean
from forwardonly.rules.base import BlockPosition, PeerGoodness, float32
from forwardonly.rules.unlabelled import UnlabelledRule


def nt_xent(one: Tensor, other: Tensor, temperature: float) -> Tensor:
    """-log softmax over the 2B - 1 other views of the cosine to the view of the same image, / temperature; the mean.

    `one`, `other`: projections of two views of the same images, (B, D) each.
    """
    unit = F.normalize(torch.cat([one, other]), dim=1)
    cosines = (unit @ unit.T / temperature).fill_diagonal_(-torch.inf)
    partner = torch.arange(len(unit), device=unit.device).roll(len(one))
    return F.cross_entropy(cosines, partner)


@dataclass(kw_only=True, eq=False)
class SimCLR(UnlabelledRule):
    """NT-Xent of a projection of the last activation, averaged over space; the gradient runs through the whole body."""

    temperature: float = 0.5
    """Temperature of the cosines."""
    features: int = 128
    """Features of the projection."""

    expert = frozenset({"size"})
    end_to_end = True
    normalises = False
    standardise = True
    training_defaults = MappingProxyType({"batch_size": 256})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature <= 0 or self.features < 1:
            raise ValueError(
                f"temperature must be positive and features at least 1, not {self.temperature} and {self.features}."
            )

    @property
    def views(self) -> int:
        return 2

    def setup(self, shape: tuple[int, ...], position: BlockPosition) -> None:
        self.head = nn.Sequential(nn.Linear(shape[0], shape[0]), nn.ReLU(), nn.Linear(shape[0], self.features))

    def alone(self, images: Tensor) -> Tensor:
        return images

    def pair(self, first: Tensor, second: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return first, second

    def pass_on(self, activation: Tensor) -> Tensor:
        return activation

    def local_loss(self, activation: Tensor, labels: Tensor, peers: PeerGoodness | None) -> tuple[Tensor, None]:
        """See `Rule`; `activation` (2B, ...) is the first view of each image followed by the second."""
        pooled = activation if activation.dim() == 2 else space_mean(activation)
        one, other = float32(self.head(pooled)).chunk(2)
        return self.loss(one, other), None

    def loss(self, positive: Tensor, negative: Tensor, peers: PeerGoodness | None = None) -> Tensor:
        """NT-Xent of the projections (B, D) of both views, which no label tells positive or negative."""
        return nt_xent(positive, negative, self.temperature)
