"""Images from any source, as people see them, in a network's colour and size, with a note of the changes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from forwardonly.data.images import Images
from forwardonly.data.pictures import MAX_PIXELS, Picture, fitted, look, pictures, quiet_pool
from forwardonly.data.seeing import DARK, EIGHT_BITS


@dataclass(frozen=True)
class InMemory:
    """The bytes of an image file, with a name for messages."""

    name: str
    content: bytes

    def open(self, mode: Any, /) -> io.BytesIO:
        return io.BytesIO(self.content)

    def __str__(self) -> str:
        return self.name


def read_adapted(
    files: Sequence[Picture | str] | Path | str,
    shape: tuple[int, int, int],
    *,
    most_pixels: int = MAX_PIXELS,
    exact: bool = False,
) -> tuple[Tensor, list[str]]:
    """Image files of any Pillow format as uint8 (N, C, H, W), and a note of what was changed in each, "" if nothing.

    shape: (C, H, W) of the result. Pictures are read as people see them: turned by their orientation mark, laid on
    white where they are transparent, 16 bits made 8. Where the size differs, the shorter side is resized and the centre
    cut out; RGB becomes grey by its luminance, grey becomes RGB with three equal channels; `exact` forbids these.
    Raises ValueError, naming the file, for one that is damaged, has more than `most_pixels` (checked before it is
    decoded), or has another size where the network's is not square.
    """
    channels, height, width = shape
    files = pictures(files)
    if channels not in (1, 3):
        raise ValueError(f"image files have 1 channel or 3, the network takes {channels}")
    if not files:
        raise ValueError("there are no image files to read")
    pixels = np.empty((len(files), *shape), np.uint8)

    def adapt(index: int) -> str:
        file = files[index]
        seen = look(file, most_pixels, height if height == width else None)
        size = seen.size
        fits = size == (width, height)
        if not fits and height != width:
            raise ValueError(
                f"{file}: it is {size[0]} x {size[1]} pixels, it must be {width} x {height}: "
                "only to squares can images be resized"
            )
        adapted = _changes(size, seen.image.mode == "L", shape)
        if exact and adapted:
            raise ValueError(f"{file}: it would have to be {', '.join(adapted)}, which --exact forbids")
        pixels[index] = fitted(seen.image, file, shape, None if fits else height)
        dark = seen.brightest is not None and seen.brightest < DARK
        deep = {EIGHT_BITS: f"{EIGHT_BITS} (its brightest value is {seen.brightest} of 65535)"} if dark else {}
        return ", ".join([*(deep.get(each, each) for each in seen.changes), *adapted])

    with quiet_pool() as pool:
        notes = list(pool.map(adapt, range(len(files))))
    return torch.from_numpy(pixels), notes


def adapted(images: Images, shape: tuple[int, int, int]) -> Images:
    """Images (N, c, h, w) in the colour and size (C, H, W) of others, with a note of the changes.

    They are changed as `read_adapted` changes files: where the size differs, to squares alone. Images that cannot be
    made so are returned as they are.
    """
    from PIL import Image

    channels, height, width = shape
    grey = images.shape[0] == 1
    if images.shape == shape or {channels, images.shape[0]} - {1, 3} or height != width:
        return images
    size = images.shape[2], images.shape[1]
    pixels = np.empty((len(images), *shape), np.uint8)
    for index, own in enumerate(images.images.permute(0, 2, 3, 1).numpy()):
        picture = Image.fromarray(own[:, :, 0] if grey else own)
        pixels[index] = fitted(picture, InMemory(images.name, b""), shape, None if size == (width, height) else height)
    note = f"{images.name}: {', '.join(_changes(size, grey, shape))}"
    return replace(images, images=torch.from_numpy(pixels), notes=(*images.notes, note))


def _changes(size: tuple[int, int], grey: bool, shape: tuple[int, int, int]) -> list[str]:
    """What is changed in a picture of (width, height) to have another shape, in words."""
    channels, height, width = shape
    changed = [] if size == (width, height) else [f"resized from {size[0]} x {size[1]} to {width} x {height}"]
    if grey != (channels == 1):
        changed.append("grey made RGB" if grey else "colour made grey")
    return changed
