"""Batches of inputs and targets: examples put together, told from single ones, and known again by a hash."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import torch
from torch import Tensor

from forwardonly.data.inputs import Expected, Inputs, each, is_picture, parts

Raw = tuple[Any, Any]
"""Inputs and targets as they came; targets are None where there are none."""


class Pair(NamedTuple):
    """A batch: inputs of its examples, and their targets (None where the data have none)."""

    inputs: Inputs
    targets: Tensor | None


def joined(raw: Sequence[Raw]) -> Raw:
    """Examples as one batch: tensors and arrays are stacked later; dicts and tuples of inputs are joined by part."""
    inputs, targets = [pair[0] for pair in raw], [pair[1] for pair in raw]
    whole: Any = inputs
    if isinstance(inputs[0], dict):
        if any(one.keys() != inputs[0].keys() for one in inputs):
            raise ValueError("examples of one batch have different names of inputs.")
        whole = {name: [one[name] for one in inputs] for name in inputs[0]}
    elif isinstance(inputs[0], tuple):
        whole = tuple(map(list, zip(*inputs, strict=True)))
    return whole, None if targets[0] is None else targets


def is_single(raw: Raw, expected: Expected) -> bool:
    """Whether an item is one example and not a batch: told by its target, or else by the axes of its input."""
    inputs, targets = raw
    axes = 1 if isinstance(targets, list | tuple) else getattr(targets, "ndim", None)
    if targets is not None and not axes:  # a number, a name
        return True
    if expected.kind == "class" and targets is not None:
        return False
    several = list(inputs.values()) if isinstance(inputs, dict) else inputs
    first = several[0] if isinstance(several, list | tuple) else inputs
    if is_picture(first):
        return True
    if first is inputs and expected.shape and hasattr(first, "ndim"):
        return bool(first.ndim <= len(expected.shape))
    return getattr(first, "ndim", 2) < 2


def fingerprint(pair: Pair, whole: bool = False) -> str:
    """A hash of a batch's targets, its shapes, and its first input; or of all its inputs, and their names."""
    found = blake2b(digest_size=16)
    if whole and isinstance(pair.inputs, dict):
        found.update(str(list(pair.inputs)).encode())
    for tensor in parts(pair.inputs):
        found.update(str((tensor.dtype, tuple(tensor.shape))).encode())
        found.update(_bytes(tensor if whole else tensor[:1]))
    if pair.targets is not None:
        found.update(_bytes(pair.targets))
    return found.hexdigest()


def type_of(data: Any) -> str:
    """The type of data by its full name, and of the data set in a loader."""
    inner = getattr(data, "dataset", None)
    own = f"{type(data).__module__}.{type(data).__qualname__}"
    return own if inner is None else f"{own} of {type_of(inner)}"


def chained(before: str, pair: Pair, whole: bool = False) -> str:
    """A hash of all batches so far, from that of those before and the next one's `fingerprint`."""
    return blake2b((before + fingerprint(pair, whole)).encode(), digest_size=16).hexdigest()


def chained_all(pairs: Iterable[Pair]) -> str:
    """A hash of every number of these batches."""
    seen = ""
    for pair in pairs:
        seen = chained(seen, pair, whole=True)
    return seen


def _bytes(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data if tensor.numel() else b""


def concatenated(pairs: list[Pair]) -> Pair:
    """Several batches as one, without a copy where it is one."""
    if len(pairs) == 1:
        return pairs[0]
    rows = [parts(pair.inputs) for pair in pairs]
    whole = iter([torch.cat(column) for column in zip(*rows, strict=True)])
    targets = [pair.targets for pair in pairs if pair.targets is not None]
    return Pair(each(pairs[0].inputs, lambda _: next(whole)), torch.cat(targets) if targets else None)
