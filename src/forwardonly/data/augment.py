"""Augmentation of a whole batch on its device: uint8 in, uint8 out, no loop over samples.

The alternating flip is the idea of Keller Jordan's airbench (arXiv 2404.00498): each image is seen in one direction in
even epochs and in the other in odd ones, so that every two epochs show each image in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Flip = Literal["none", "random", "alternating"]


@dataclass(frozen=True)
class Augment:
    """The augmentation of training images. Raises ValueError for a negative size or an unknown flip."""

    crop: int = 0
    """Pixels of reflected border from which a crop of the old size is cut at random; 0 for none."""
    flip: Flip = "none"
    """Left-right flip: none, random (a coin per image), or alternating (each image every other epoch)."""
    cutout: int = 0
    """Side of a square, centred at random, that is painted in its image's mean colour; 0 for none."""

    def __post_init__(self) -> None:
        for name, value in (("crop", self.crop), ("cutout", self.cutout)):
            if value < 0:
                raise ValueError(f"{name} must be 0 or more pixels, not {value}")
        if self.flip not in get_args(Flip):
            raise ValueError(f"flip must be none, random or alternating, not {self.flip!r}")

    @property
    def draws(self) -> bool:
        """Whether it needs random numbers."""
        return self.crop > 0 or self.cutout > 0 or self.flip == "random"

    def __call__(
        self,
        images_BCHW: Tensor,
        generator: torch.Generator | None,
        epoch: int = 0,
        indices: Tensor | None = None,
    ) -> Tensor:
        """A batch of the same shape, type and device, determined by generator, `epoch` and `indices`.

        images: (B, C, H, W); indices: (B,) positions in the data set, which the alternating flip needs.
        """
        if self.draws and generator is None:
            raise ValueError("crop, cutout and random flip need a generator")
        _check_in_sight("crop", self.crop, images_BCHW)
        if self.crop or self.flip != "none":
            images_BCHW = self._shift_and_flip(images_BCHW, generator, epoch, indices)
        return _cutout(images_BCHW, self.cutout, generator) if self.cutout else images_BCHW

    def _shift_and_flip(
        self, images: Tensor, generator: torch.Generator | None, epoch: int, indices: Tensor | None
    ) -> Tensor:
        """Crop and flip only choose the source of each pixel, so they are one gather."""
        count, channels, height, width = images.shape
        rows = torch.arange(height, device=images.device).expand(count, -1)  # (B, H), the source of each row
        columns = torch.arange(width, device=images.device).expand(count, -1)  # (B, W)
        if self.crop:
            rows = _mirrored(rows + _draw(2 * self.crop + 1, images, generator)[:, None] - self.crop, height)
            columns = _mirrored(columns + _draw(2 * self.crop + 1, images, generator)[:, None] - self.crop, width)
        if self.flip != "none":
            if self.flip == "random":
                turned = _draw(2, images, generator) == 1
            elif indices is None:
                raise ValueError("the alternating flip needs the images' indices in their data set")
            else:
                turned = (_coin(indices.to(images.device)) + epoch) % 2 == 1
            columns = torch.where(turned[:, None], columns.flip(1), columns)
        positions = (rows[:, :, None] * width + columns[:, None, :]).view(count, 1, height * width)
        return images.flatten(2).gather(2, positions.expand(-1, channels, -1)).view(images.shape)


@dataclass(frozen=True)
class Views:
    """Copies of a test image whose class scores are summed. Raises ValueError for a negative shift."""

    shift: int = 0
    """Pixels by which copies are moved along each diagonal, over a reflected border; 0 for none."""
    mirror: bool = False
    """Whether a mirrored copy of each is added."""

    def __post_init__(self) -> None:
        if self.shift < 0:
            raise ValueError(f"shift must be 0 or more pixels, not {self.shift}")

    def __call__(self, images_BCHW: Tensor) -> list[Tensor]:
        """The images and their copies, each (B, C, H, W). Raises ValueError if a shift is larger than the image."""
        _check_in_sight("shift", self.shift, images_BCHW)
        height, width = images_BCHW.shape[2:]
        seen = [images_BCHW]
        for down, right in [(-1, -1), (-1, 1), (1, -1), (1, 1)] if self.shift else []:
            rows = _mirrored(torch.arange(height, device=images_BCHW.device) + down * self.shift, height)
            columns = _mirrored(torch.arange(width, device=images_BCHW.device) + right * self.shift, width)
            seen.append(images_BCHW[:, :, rows][:, :, :, columns])
        return [*seen, *(view.flip(3) for view in seen)] if self.mirror else seen


def _check_in_sight(name: str, pixels: int, images: Tensor) -> None:
    """Raises ValueError if images moved by `pixels` would show nothing but their reflected border."""
    height, width = images.shape[-2:]
    if pixels >= min(height, width):
        raise ValueError(f"{name} must be less than the image's sides, {height} x {width}, not {pixels}")


def _draw(below: int, images: Tensor, generator: torch.Generator | None) -> Tensor:
    """(B,) whole numbers from 0 to below-1 on the images' device, drawn on the generator's."""
    device = images.device if generator is None else generator.device
    return torch.randint(below, (len(images),), generator=generator, device=device).to(images.device)


def _mirrored(positions: Tensor, size: int) -> Tensor:
    """Positions beyond 0 to size-1, reflected into that range; the edge itself is not repeated."""
    positions = positions.abs()
    return torch.where(positions >= size, 2 * (size - 1) - positions, positions)


def _coin(indices: Tensor) -> Tensor:
    """(B,) 0 or 1 for each index, always the same: one bit of a multiplicative hash with two rounds."""
    mixed = indices.long() & 0xFFFFFFFF
    for _ in range(2):
        mixed = ((mixed ^ (mixed >> 16)) * 0x45D9F3B) & 0xFFFFFFFF
    return (mixed >> 16) & 1


def _cutout(images: Tensor, side: int, generator: torch.Generator | None) -> Tensor:
    count, channels, height, width = images.shape
    # A square that extends beyond the edge contains the edge, so clamped positions only repeat painted pixels.
    reach = torch.arange(side, device=images.device) - side // 2
    rows = (_draw(height, images, generator)[:, None] + reach).clamp(0, height - 1)
    columns = (_draw(width, images, generator)[:, None] + reach).clamp(0, width - 1)
    positions = (rows[:, :, None] * width + columns[:, None, :]).view(count, 1, side * side).expand(-1, channels, -1)
    flat = images.flatten(2)
    colour = flat.float().mean(dim=2, keepdim=True).to(images.dtype)
    return flat.scatter(2, positions, colour.expand(-1, -1, side * side)).view(images.shape)
