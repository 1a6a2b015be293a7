"""Labels as input: embedding them in images, and drawing wrong ones.

Hinton 2022, arXiv 2212.13345: the first C features carry a one-hot code whose "1" is the input's maximum; a negative is
the same image with a wrong label, any or a hard one; under a neutral label every class gets 0.1.

A convolution sees such a label in one corner alone. Scodellaro et al. 2023, "Training Convolutional Neural Networks
with the Forward-Forward Algorithm", arXiv 2312.14924: the label as a wave over the whole image, added to it. Which wave
is whose is ours: the slowest plane waves of the image's own Fourier basis, so that any two are orthogonal.

Shapes: B batch, C classes, D features; images are (B, K, H, W).
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

NEUTRAL = 0.1

Placement = Literal["first", "everywhere"]
"""Where a label stands: in the first features, which it replaces, or as a wave over the image, which is added."""


def embed(images: Tensor, codes: Tensor, value: float, placement: Placement = "first") -> Tensor:
    """A copy of images (B, ...) that carries codes (B, C) times `value`, in its first C features or everywhere.

    Raises:
        ValueError: an image is too small for so many classes.
    """
    flat = images.flatten(1)
    classes = codes.shape[1]
    if placement == "everywhere":
        shift = codes.to(flat.dtype) @ waves(classes, images.shape[1:], images.device).to(flat.dtype)
        return images + value * shift.view_as(images)
    if flat.shape[1] < classes:
        raise ValueError(f"The image has {flat.shape[1]} features: too few to carry the label of {classes} classes.")
    return torch.cat([codes.to(flat.dtype) * value, flat[:, classes:]], dim=1).view_as(images)


def embed_labels(images: Tensor, classes: int, value: float, placement: Placement, labels: Tensor) -> Tensor:
    """Images that carry their labels (B,) as a one-hot code, its "1" being `value`."""
    return embed(images, F.one_hot(labels, classes), value, placement)


def embed_neutral(images: Tensor, classes: int, value: float, placement: Placement) -> Tensor:
    """Images that carry no label: 0.1 of `value` for every class."""
    return embed(images, images.new_full((images.shape[0], classes), NEUTRAL), value, placement)


def waves(classes: int, shape: Sequence[int], device: torch.device) -> Tensor:
    """A wave of amplitude 1 for each class, (C, K H W): cosines and sines by turns, the same in all channels.

    Raises:
        ValueError: an image of `shape` (K, H, W) has too few pixels to tell so many waves apart.
    """
    channels, height, width = shape
    most = math.isqrt(classes)  # the half-plane of frequencies up to this one holds enough
    if most > (min(height, width) - 1) // 2:
        raise ValueError(f"An image of {height} x {width} pixels is too small for the waves of {classes} classes.")
    half = [(u, v) for u in range(most + 1) for v in range(-most, most + 1) if u > 0 or v > 0]  # without opposites
    half.sort(key=lambda uv: (uv[0] ** 2 + uv[1] ** 2, uv))
    u, v = torch.tensor([half[c // 2] for c in range(classes)], device=device).T[:, :, None, None]
    down = torch.arange(height, device=device)[:, None] / height
    across = torch.arange(width, device=device) / width
    quarter = torch.arange(classes, device=device)[:, None, None] % 2 / 4
    angles = 2 * math.pi * (u * down + v * across - quarter)
    return torch.cos(angles).unsqueeze(1).expand(-1, channels, -1, -1).flatten(1)


def wrong_labels(labels: Tensor, classes: int, generator: torch.Generator) -> Tensor:
    """For each label (B,) another one, every wrong class with the same chance."""
    shift = torch.randint(1, classes, labels.shape, generator=generator, device=labels.device)
    return (labels + shift) % classes


def hard_labels(labels: Tensor, logits: Tensor, generator: torch.Generator) -> Tensor:
    """For each label (B,) a wrong one, drawn from softmax(logits (B, C)) without the right class."""
    chances = torch.softmax(logits.float(), dim=1).nan_to_num()  # NaN is for the loss to find: it can name the block
    chances = chances.clamp_min(1e-6).scatter(1, labels[:, None], 0.0)
    return torch.multinomial(chances, 1, generator=generator).squeeze(1)
