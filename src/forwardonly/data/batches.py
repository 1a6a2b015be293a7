"""Batches: slices of one tensor by index, on its device."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from forwardonly.data.augment import Augment
from forwardonly.data.images import Images


def batches(
    split: Images,
    batch_size: int,
    *,
    generator: torch.Generator | None,
    augment: Augment | None = None,
    epoch: int = 0,
    drop_last: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """One pass over `split`, in batches (images (B, C, H, W) uint8, labels (B,) int64).

    The order is one permutation drawn from `generator`, or the stored order without one; so the generator's state
    before the pass and `epoch` (for the alternating flip) determine every batch. Raises ValueError for a batch size
    that gives no batch.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    if drop_last and batch_size > len(split):
        raise ValueError(f"batch_size must be at most {len(split)}, the images there are, not {batch_size}")
    if augment is not None and augment.draws and generator is None:
        raise ValueError("crop, cutout and random flip need a generator")
    return _batches(split, batch_size, generator, augment, epoch, drop_last)


def _batches(
    split: Images,
    size: int,
    generator: torch.Generator | None,
    augment: Augment | None,
    epoch: int,
    drop_last: bool,
) -> Iterator[tuple[Tensor, Tensor]]:
    device, count = split.images.device, len(split)
    order = None
    if generator is not None:
        order = torch.randperm(count, generator=generator, device=generator.device).to(device)
    for start in range(0, count - size + 1 if drop_last else count, size):
        end = min(start + size, count)
        if order is None:
            images, labels = split.images[start:end], split.labels[start:end]
        else:
            # index_select copies whole rows: a hundred times faster here than indexing with [...]
            chosen = order[start:end]
            images, labels = split.images.index_select(0, chosen), split.labels.index_select(0, chosen)
        if augment is not None:
            chosen = torch.arange(start, end, device=device) if order is None else order[start:end]
            images = augment(images, generator, epoch, chosen)
        yield images, labels
