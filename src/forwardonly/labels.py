"""Labels as input: embedding them in the first features, and drawing wrong ones.

Hinton 2022, arXiv 2212.13345: the first C features carry a one-hot code whose "1" is the input's maximum; a negative is
the same image with a wrong label, any or a hard one; under a neutral label every class gets 0.1.

Shapes: B batch, C classes, D features.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

NEUTRAL = 0.1


def embed(images: Tensor, codes: Tensor, value: float) -> Tensor:
    """A copy of images (B, ...) whose first C features hold codes (B, C) times `value`.

    Raises:
        ValueError: an image has fewer features than there are classes.
    """
    flat = images.flatten(1)
    classes = codes.shape[1]
    if flat.shape[1] < classes:
        raise ValueError(f"The image has {flat.shape[1]} features: too few to carry the label of {classes} classes.")
    return torch.cat([codes.to(flat.dtype) * value, flat[:, classes:]], dim=1).view_as(images)


def embed_labels(images: Tensor, classes: int, value: float, labels: Tensor) -> Tensor:
    """Images that carry their labels (B,) as a one-hot code, its "1" being `value`."""
    return embed(images, F.one_hot(labels, classes), value)


def embed_neutral(images: Tensor, classes: int, value: float) -> Tensor:
    """Images that carry no label: 0.1 of `value` for every class."""
    return embed(images, images.new_full((images.shape[0], classes), NEUTRAL), value)


def wrong_labels(labels: Tensor, classes: int, generator: torch.Generator) -> Tensor:
    """For each label (B,) another one, every wrong class with the same chance."""
    shift = torch.randint(1, classes, labels.shape, generator=generator, device=labels.device)
    return (labels + shift) % classes


def hard_labels(labels: Tensor, logits: Tensor, generator: torch.Generator) -> Tensor:
    """For each label (B,) a wrong one, drawn from softmax(logits (B, C)) without the right class."""
    chances = torch.softmax(logits.float(), dim=1).nan_to_num()  # NaN is for the loss to find: it can name the block
    chances = chances.clamp_min(1e-6).scatter(1, labels[:, None], 0.0)
    return torch.multinomial(chances, 1, generator=generator).squeeze(1)
