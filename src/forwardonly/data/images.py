"""A set of labelled images as tensors, and splitting it in two."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, ClassVar, NamedTuple, Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from forwardonly.names import require, whole_number
from forwardonly.targets import NO_LABEL, Kind


class Divisible(Protocol):
    """Labelled examples that can be divided: in memory, or files that are read as they are needed."""

    @property
    def name(self) -> str: ...
    @property
    def labels(self) -> Tensor: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    def __len__(self) -> int: ...
    def require_labels(self) -> None: ...
    def subset(self, indices: Tensor, /) -> Self: ...


Set = TypeVar("Set", bound=Divisible)


@dataclass(frozen=True, eq=False)
class Images:
    """One split of a data set, complete and on one device.

    images: (N, channels, height, width) uint8; labels: (N,) int64, each an index into `classes`; both may be given as
    numpy arrays, and labels then as whole numbers of any size, or as a list of them. Images without labels have no
    classes, and -1 as labels, which may be left out. notes: what was assumed and passed over in reading, a sentence
    each. Raises ValueError where the tensors do not match.
    """

    images: Tensor
    labels: Tensor = None  # type: ignore[assignment]  # `__post_init__` makes a tensor of it
    classes: tuple[str, ...] = ()
    name: str = "the images"
    notes: tuple[str, ...] = ()

    dtype: ClassVar[torch.dtype] = torch.uint8

    def __post_init__(self) -> None:
        require(f"{self.name}: images", self.images, (Tensor, np.ndarray), "a tensor or an array")
        pixels: Any = self.images
        numbers: Any = self.labels
        if numbers is None:
            object.__setattr__(self, "labels", torch.full((len(pixels),), NO_LABEL))
        if isinstance(pixels, np.ndarray):
            object.__setattr__(self, "images", _tensor(pixels, f"{self.name}: images"))
        if isinstance(numbers, list | tuple):
            numbers = _listed(numbers, f"{self.name}: labels")
        require(f"{self.name}: labels", numbers, (Tensor, np.ndarray, type(None)), "a tensor, an array or a list")
        if isinstance(numbers, np.ndarray):
            labels = _tensor(numbers, f"{self.name}: labels")
            whole = not labels.dtype.is_floating_point and labels.dtype != torch.bool
            object.__setattr__(self, "labels", labels.long() if whole else labels)
        if self.images.ndim != 4 or self.images.dtype != self.dtype:
            raise ValueError(
                f"{self.name}: images must be {str(self.dtype).removeprefix('torch.')} "
                f"of shape (N, channels, height, width), "
                f"not {self.images.dtype} of shape {tuple(self.images.shape)}"
            )
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != torch.int64:
            raise ValueError(
                f"{self.name}: labels must be int64 of shape ({len(self.images)},), one for each image, "
                f"not {self.labels.dtype} of shape {tuple(self.labels.shape)}"
            )
        if not self.labelled and bool((self.labels != NO_LABEL).any()):
            raise ValueError(f"{self.name}: labels are of no class: name the classes, or leave out the labels")
        if len(self.labels) and self.labelled:
            low, high = (int(x) for x in self.labels.aminmax())
            if low < 0 or high >= len(self.classes):
                raise ValueError(
                    f"{self.name}: label {low if low < 0 else high} is out of range, "
                    f"labels must be 0 to {len(self.classes) - 1}"
                )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def labelled(self) -> bool:
        """Whether the images have labels."""
        return self.kind != "class" or bool(self.classes)

    def require_labels(self) -> None:
        """Raises ValueError if the images have no labels."""
        if not self.labelled:
            raise ValueError(f"{self.name}: these images have no labels, which are needed here")

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.shape))
        kind, where = type(self).__name__, self.images.device
        classes = f"in {len(self.classes)} classes" if self.labelled else "without labels"
        return f"<{kind} {self.name!r}: {len(self):,} of {shape} {classes}, on {where}>"

    @property
    def kind(self) -> Kind:
        """What the labels are; see `forwardonly.targets`."""
        return "class"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def to(self, device: torch.device | str) -> Self:
        """The same split on `device`."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def subset(self, indices: Tensor) -> Self:
        """The images at `indices`, (M,) int64, in that order, as a copy."""
        indices = indices.to(self.labels.device)
        return replace(self, images=self.images.index_select(0, indices), labels=self.labels.index_select(0, indices))

    def in_order(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(images, labels) of one batch after the other, in the stored order; views, not copies."""
        batch_size = whole_number("batch_size", batch_size, 1)
        for start in range(0, len(self), batch_size):
            yield self.images[start : start + batch_size], self.labels[start : start + batch_size]

    def inputs_in_order(self, batch_size: int) -> Iterator[Tensor]:
        """The images alone, as `in_order`."""
        return iter(self.images.split(whole_number("batch_size", batch_size, 1)))

    def of_classes(self, chosen: Sequence[int]) -> Self:
        """The images of the chosen classes alone; labels are renumbered in that order.

        Raises:
            ValueError: fewer than two classes, one that does not exist, or one twice.
        """
        if len(chosen) < 2 or len(set(chosen)) < len(chosen) or not 0 <= min(chosen) <= max(chosen) < len(self.classes):
            raise ValueError(
                f"choose two or more different classes of 0 to {len(self.classes) - 1}, not {list(chosen)}"
            )
        new = torch.full((len(self.classes),), -1, device=self.labels.device)
        new[list(chosen)] = torch.arange(len(chosen), device=self.labels.device)
        labels = new[self.labels]
        kept = (labels >= 0).nonzero()[:, 0]
        names = tuple(self.classes[index] for index in chosen)
        return replace(self, images=self.images.index_select(0, kept), labels=labels[kept], classes=names)


@dataclass(frozen=True, eq=False)
class Features(Images):
    """Features of images from a frozen network, float32 (N, channels, height, width); accepted wherever images are."""

    dtype = torch.float32


class Splits(NamedTuple):
    """The result of `load`; `validation` is None where none was held out."""

    train: Images
    validation: Images | None
    test: Images


def _tensor(array: np.ndarray, what: str) -> Tensor:
    if array.dtype.kind not in "biuf" or not array.dtype.isnative:
        raise ValueError(f"{what} must be numbers in this machine's byte order, not {array.dtype}")
    return torch.from_numpy(array if array.flags.writeable and min(array.strides, default=0) >= 0 else array.copy())


def _listed(values: Sequence[Any], what: str) -> np.ndarray:
    if not all(isinstance(value, Integral) and not isinstance(value, bool) for value in values):
        raise ValueError(f"{what} in a list must be whole numbers, one for each image")
    return np.array(values) if values else np.zeros(0, np.int64)


def require_contrast(train: Images) -> Images:
    """Returns `train`; ValueError where it has two images or more and all are alike."""
    first, start = train.images[:1], 0
    while start < len(train):
        if bool((train.images[start : start + 1000] != first).any()):
            return train
        start += 1000
    if len(train) < 2:
        return train
    low, high = (float(x) for x in first.aminmax()) if first.numel() else (0.0, 0.0)
    seen = f"every pixel is {low:g}" if low == high else f"pixels from {low:g} to {high:g}"
    raise ValueError(f"{train.name}: all {len(train):,} images for training are alike ({seen}): nothing can be learned")


def require_every_class(train: Set) -> Set:
    """Returns `train`; ValueError where one of its classes has no example."""
    counts = torch.bincount(train.labels, minlength=len(train.classes))
    if bool((counts == 0).any()):
        empty = train.classes[int((counts == 0).nonzero()[0])]
        raise ValueError(f"{train.name}: class {empty!r} has no examples to train on")
    return train


def limited(split: Set, count: int, seed: int) -> Set:
    """`count` of the images, the same share of every class, drawn by a generator seeded with `seed`; at most all.

    Raises:
        ValueError: fewer than one image for each class.
    """
    split.require_labels()
    least = int((torch.bincount(split.labels) > 0).sum())
    if count < least:
        raise ValueError(f"{split.name}: a limit of {count} is less than an image for each of its {least} classes")
    return split if count >= len(split) else hold_out(split, len(split) - count, seed)[0]


def spare(split: Set) -> int:
    """How many images can be held out at the most, so that each class keeps one."""
    return int((torch.bincount(split.labels) - 1).clamp(min=0).sum())


def hold_out(split: Set, count: int, seed: int) -> tuple[Set, Set]:
    """(kept, held): `count` images held out by a generator seeded with `seed`, each class by its share.

    At least one image of each class is kept; ValueError where that cannot be.
    """
    count, seed = whole_number("the number of images held out", count, 0), whole_number("seed", seed, 0)
    split.require_labels()
    possible = spare(split)
    if not 0 <= count <= possible:
        raise ValueError(
            f"{split.name}: cannot hold out {count} of {len(split)} images in {len(split.classes)} classes, "
            f"it must be 0 to {possible} so that each class keeps one"
        )
    sizes = torch.bincount(split.labels, minlength=len(split.classes))
    # Shares rounded down first; the remaining images go to the classes with the largest remainders.
    exact = sizes.double() * count / max(len(split), 1)
    quota = torch.minimum(exact.floor().long(), (sizes - 1).clamp(min=0))
    while (short := count - int(quota.sum())) > 0:
        remainder = torch.where(quota < sizes - 1, exact - quota, -torch.inf)
        quota[remainder.argsort(descending=True, stable=True)[: min(short, int(remainder.isfinite().sum()))]] += 1

    shuffled = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))
    labels = split.labels.cpu()[shuffled]
    by_class = labels.argsort(stable=True)
    rank = torch.arange(len(split)) - (sizes.cumsum(0) - sizes)[labels[by_class]]  # within its class
    held = torch.zeros(len(split), dtype=torch.bool)
    held[shuffled[by_class[rank < quota[labels[by_class]]]]] = True
    return split.subset((~held).nonzero()[:, 0]), split.subset(held.nonzero()[:, 0])
