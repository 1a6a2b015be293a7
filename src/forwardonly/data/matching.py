"""Sets of images compared with what a network or a run had before: class names, and the content itself."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import torch

from forwardonly.data.examples import Examples, columns_as
from forwardonly.data.images import Images
from forwardonly.data.inputs import order_of
from forwardonly.data.streams import Stream
from forwardonly.data.targets import some

Set = TypeVar("Set", bound=Images | Stream)
PIECE = 1 << 26  # bytes that are hashed at a time


def named_as(images: Set, classes: Sequence[str], whose: str) -> Set:
    """The same images with `classes` as class names: labels are renumbered so that each keeps its name.

    Names without an image do not matter. `whose` says in an error what has those names.

    Raises:
        ValueError: an image is of a class that is not among them, or of one of two classes with one name.
    """
    classes = tuple(classes)
    if images.classes == classes:
        return images
    if isinstance(images, Stream):
        return images.named_as(classes, whose)
    if images.kind != "class":
        return columns_as(images, classes, whose)  # type: ignore[return-value]  # of the same type
    images.require_labels()
    counts = torch.bincount(images.labels.cpu(), minlength=len(images.classes)).tolist()
    index_of, listed = {name: index for index, name in enumerate(classes)}, Counter(classes)
    new = []
    for name, count in zip(images.classes, counts, strict=True):
        if count and name not in index_of:
            raise ValueError(f"{images.name} has the class {name!r}, which {whose} does not have: {some(classes)}.")
        if count and max(listed[name], images.classes.count(name)) > 1:
            raise ValueError(f"{images.name} or {whose} has two classes named {name!r}: give each its own name.")
        new.append(index_of.get(name, 0))
    labels = torch.tensor(new, dtype=torch.int64, device=images.labels.device)[images.labels]
    return replace(images, labels=labels, classes=classes)


def features_of(data: Images | Stream) -> tuple[str, ...] | None:
    """The names of the columns of tables; None where they have none, or have not been read yet."""
    if isinstance(data, Stream):
        return data.expected.features
    return data.features if isinstance(data, Examples) else None


def featured_as(data: Set, names: tuple[str, ...] | None) -> Set:
    """The same data with their columns in the order of `names`, as far as both have names.

    Raises:
        ValueError: a column that is not among them, or one that is missing; of a stream when it is read.
    """
    if names is None:
        return data
    if isinstance(data, Stream):
        data.expected = data.expected._replace(features=names)
        return data
    if not isinstance(data, Examples) or data.features is None or data.features == names:
        return data
    order = torch.tensor(order_of(data.features, names, f"X of {data.name}"), device=data.images.device)
    return replace(data, images=data.images.index_select(-1, order), features=names)


def covers(classes: Sequence[str], images: Images | Stream) -> bool:
    """Whether every class that has an image is among `classes`; of a stream, every class that may occur."""
    if isinstance(images, Stream) or images.kind != "class":
        return set(images.classes) <= set(classes)
    used = torch.bincount(images.labels.cpu(), minlength=len(images.classes)).tolist()
    return all(not count or name in classes for name, count in zip(images.classes, used, strict=True))


def digest(images: Images | Stream) -> str:
    """A hash of the images, their labels and their class names, in their order; not of the set's name or place.

    A stream has no content to hash before it is read: of it, its own words (`Stream.words`).
    """
    if isinstance(images, Stream):
        return images.digest()
    found = hashlib.blake2b(digest_size=16)
    about = [str(images.images.dtype), list(images.images.shape), list(images.classes)]
    found.update(json.dumps(about).encode())
    each = max(1, images.images[:1].nbytes)
    for part in images.images.split(max(1, PIECE // each)):
        found.update(part.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    found.update(images.labels.cpu().contiguous().view(torch.uint8).numpy().data)
    return found.hexdigest()
