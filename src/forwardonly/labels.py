"""Labels as input: embedding them in images, and drawing wrong ones.

Hinton 2022, arXiv 2212.13345: the first C features carry a one-hot code whose "1" is the input's maximum; a negative is
the same image with a wrong label, uniform or hard; under a neutral label every class gets 0.1.

A convolution sees such a label in one corner only. Scodellaro et al. 2023, "Training Convolutional Neural Networks with
the Forward-Forward Algorithm", arXiv 2312.14924: the label as a wave over the whole image, added to it. Ours is the
choice of waves: the slowest plane waves of the image's own Fourier basis, any two of which are orthogonal.

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
"""Placement of a label: in the first features, which it replaces, or as a wave over the image, which is added."""


def embed(images: Tensor, codes: Tensor, value: float, placement: Placement = "first") -> Tensor:
    """A copy of images (B, ...) with codes (B, C) times `value` embedded, in the first C features or everywhere.

    Raises:
        ValueError: an image is too small for the number of classes.
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
    """Images with their labels (B,) embedded as a one-hot code, whose "1" is `value`."""
    return embed(images, F.one_hot(labels, classes), value, placement)


def embed_neutral(images: Tensor, classes: int, value: float, placement: Placement) -> Tensor:
    """Images with a neutral label embedded: 0.1 of `value` for every class."""
    return embed(images, images.new_full((images.shape[0], classes), NEUTRAL), value, placement)


def waves(classes: int, shape: Sequence[int], device: torch.device) -> Tensor:
    """A wave of amplitude 1 for each class, (C, K H W): cosines and sines in turn, the same in all channels.

    Raises:
        ValueError: an image of `shape` (K, H, W) has too few pixels for that many orthogonal waves.
    """
    channels, height, width = shape
    most = math.isqrt(classes)  # the half-plane of frequencies up to this one has enough waves
    if most > (min(height, width) - 1) // 2:
        raise ValueError(f"An image of {height} x {width} pixels is too small for the waves of {classes} classes.")
    half = [
        (u, v) for u in range(most + 1) for v in range(-most, most + 1) if u > 0 or v > 0
    ]  # one of each pair of opposite frequencies
    half.sort(key=lambda uv: (uv[0] ** 2 + uv[1] ** 2, uv))
    u, v = torch.tensor([half[c // 2] for c in range(classes)], device=device).T[:, :, None, None]
    down = torch.arange(height, device=device)[:, None] / height
    across = torch.arange(width, device=device) / width
    quarter = torch.arange(classes, device=device)[:, None, None] % 2 / 4
    angles = 2 * math.pi * (u * down + v * across - quarter)
    return torch.cos(angles).unsqueeze(1).expand(-1, channels, -1, -1).flatten(1)


def wrong_labels(labels: Tensor, classes: int, generator: torch.Generator) -> Tensor:
    """For each label (B,) a wrong one, drawn uniformly."""
    shift = torch.randint(1, classes, labels.shape, generator=generator, device=labels.device)
    return (labels + shift) % classes


def hard_labels(labels: Tensor, logits: Tensor, generator: torch.Generator) -> Tensor:
    """For each label (B,) a wrong one, drawn from softmax(logits (B, C)) without the right class."""
    chances = torch.softmax(
        logits.float(), dim=1
    ).nan_to_num()  # the check of the losses reports NaN, and names the block
    chances = chances.clamp_min(1e-6).scatter(1, labels[:, None], 0.0)
    return torch.multinomial(chances, 1, generator=generator).squeeze(1)
