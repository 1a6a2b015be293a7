"""Images from any source, converted to the colour and size that a network takes, with a note of the changes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from forwardonly.data.pictures import MAX_PIXELS, Picture, picture_head, read_images


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
    files: Sequence[Picture], shape: tuple[int, int, int], *, most_pixels: int = MAX_PIXELS
) -> tuple[Tensor, list[str]]:
    """Image files of any Pillow format as uint8 (N, C, H, W), and a note of what was changed in each, "" if nothing.

    shape: (C, H, W) of the result. Where the size differs, the shorter side is resized and the centre cut out; RGB
    becomes grey by its luminance, grey becomes RGB with three equal channels. Raises ValueError, naming the file, for
    one that is damaged, has more than `most_pixels` (checked before it is decoded), or has another size where the
    network's is not square.
    """
    channels, height, width = shape
    heads = [picture_head(file) for file in files]
    for file, (_, size) in zip(files, heads, strict=True):
        if size[0] * size[1] > most_pixels:
            raise ValueError(f"{file}: {size[0]} x {size[1]} pixels, more than {most_pixels:,} are refused")
    other_size = [size != (width, height) for _, size in heads]
    if any(other_size) and height != width:
        first = other_size.index(True)
        have, want = heads[first][1], (width, height)
        raise ValueError(
            f"{files[first]}: it is {have[0]} x {have[1]} pixels, it must be {want[0]} x {want[1]}: "
            "only to squares can images be resized"
        )
    notes = []
    for (grey, size), resized in zip(heads, other_size, strict=True):
        changes = [f"resized from {size[0]} x {size[1]} to {width} x {height}"] if resized else []
        if grey != (channels == 1):
            changes.append("grey made RGB" if grey else "colour made grey")
        notes.append(", ".join(changes))
    return read_images(files, shape=shape, image_size=height if any(other_size) else None), notes
