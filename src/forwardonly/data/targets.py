"""Targets of any origin as tensors: how each kind is recognised, and what is refused.

Which kind is meant is not guessed: the network says it, by its rule's `targets`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from forwardonly.data.inputs import Expected, array_of, is_pandas, require_finite, require_own_names, tensor_of
from forwardonly.targets import IGNORED, KINDS, NO_LABEL, OBJECTIVES

INSTEAD = {
    "class": "classes are one a row, whole numbers or names",
    "labels": "several labels at once are a column each, 0 or 1",
    "number": "numbers are a column each",
    "token": "tokens are rows of whole numbers",
}


class Names:
    """The names of the classes in data, and the index of each.

    Args:
        names: in the order of their indices; None where they are to be found in the data.
        indices: whether whole numbers in the data are indices into the names, as in data that bring their own names.
            Else whole numbers are looked up among names where any of these is a whole number.
        assumed: whether nobody said the names, so that they are the numbers from 0.
    """

    def __init__(self, names: Sequence[Any] | None, *, indices: bool = False, assumed: bool = False):
        self.names = None if names is None else tuple(map(name_of, names))
        self.index = {name: number for number, name in enumerate(self.names or ())}
        self.indices = indices or not any(map(_is_whole, self.names or ()))
        self.assumed = assumed
        if self.names is not None and len(self.index) < len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise ValueError(f"Two classes are named {twice!r}: give each its own name.")


def name_of(value: Any) -> str:
    """The name of a class: its text; whole floats as whole numbers, so that 1.0 and 1 are one class."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value.item() if isinstance(value, np.generic) else value)


def read_targets(raw: Any, expected: Expected, names: Names, what: str) -> tuple[Tensor, tuple[str, ...]]:
    """The targets of many examples, as `forwardonly.targets` describes each kind, and the names of the classes.

    Where `names` has none, those of classes are found in `raw`, sorted. Raises ValueError for another kind than the
    network learns, for a label that is missing or not among the names, and for numbers that are not finite. Of a
    network without labels only the number of targets counts.
    """
    if not expected.labelled:
        return torch.full((len(raw),), NO_LABEL), ()
    if expected.kind == "class":
        return _classes(raw, expected, names, what)
    if expected.kind == "token":
        return _tokens(raw, expected, what), ()
    values = _columns(raw, expected, what)
    own = tuple(map(name_of, raw.columns)) if is_pandas(raw) and hasattr(raw, "columns") else names.names
    if expected.kind == "labels" and bool(((values < 0) | (values > 1)).any()):
        raise _wrong(raw, expected, what)
    return values, own or tuple(map(str, range(expected.outputs)))


def _classes(raw: Any, expected: Expected, names: Names, what: str) -> tuple[Tensor, tuple[str, ...]]:
    values = _labels(raw, expected, what)
    if isinstance(values, Tensor):
        if names.names is None and expected.names is not None and not any(map(_is_whole, expected.names)):
            names = Names(expected.names)
        if names.names is not None and names.indices:
            return _in_range(values, len(names.names), what), names.names
        if names.names is None and len(values) and 0 <= int(values.min()) <= int(values.max()) < expected.outputs:
            return values, tuple(map(str, range(expected.outputs)))
        found, inverse = torch.unique(values, return_inverse=True)
        texts = tuple(map(str, found.tolist()))
    else:
        found, inverse = values
        texts = found
    if names.names is None:
        if len(texts) > expected.outputs:
            raise ValueError(
                f"{what}: there are {len(texts)} different labels, such as {', '.join(texts[:3])}, "
                f"but the network has {expected.outputs} classes."
            )
        return inverse, texts
    for text in texts:
        if text not in names.index:
            hint = ": say all of them by classes=(...), for data that are read batch by batch" if names.assumed else ""
            raise ValueError(f"{what}: the label {text!r} is not among the classes {some(names.names)}{hint}.")
    return torch.tensor([names.index[text] for text in texts], dtype=torch.int64)[inverse], names.names


def _labels(raw: Any, expected: Expected, what: str) -> Tensor | tuple[tuple[str, ...], Tensor]:
    """Labels of classes: whole numbers (N,), or (the names that occur, sorted, and each row's index into them)."""
    if is_pandas(raw):
        lacks = np.asarray(raw.isna())
        missing = np.flatnonzero(lacks.any(1) if lacks.ndim == 2 else lacks)
        if len(missing):
            raise ValueError(f"{what}: row {missing[0]} has no label.")
        raw = raw.to_numpy()
    values: Any = raw if isinstance(raw, Tensor) else array_of(raw, what)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise _wrong(raw, expected, what)
    if not isinstance(values, Tensor) and values.dtype.kind in "iu":
        values = torch.from_numpy(values.astype(np.int64))
    if isinstance(values, Tensor) and values.dtype != torch.bool:
        if values.is_floating_point():
            require_finite(values, what)
            if bool((values != values.round()).any()):
                raise _wrong(raw, expected, what)
        return values.long().cpu()
    listed = values.tolist()
    for row, value in enumerate(listed):
        if _is_missing(value):
            raise ValueError(f"{what}: row {row} has no label.")
        try:
            hash(value)
        except TypeError:
            raise ValueError(
                f"{what}: the label of row {row} is a {type(value).__name__}, {str(value)[:40]}: a class is one name "
                "or number; several labels at once are a column each, 0 or 1 (targets='labels')."
            ) from None
        if isinstance(value, float) and not value.is_integer():
            raise _wrong(raw, expected, what)
    try:
        order = sorted(set(listed))
    except TypeError:  # of several types, which have no order
        order = sorted(set(listed), key=name_of)
    texts = tuple(dict.fromkeys(map(name_of, order)))
    index = {text: number for number, text in enumerate(texts)}
    return texts, torch.tensor([index[name_of(value)] for value in listed], dtype=torch.int64)


def _is_missing(value: Any) -> bool:
    """Whether a label stands for none: None, NaN, NaT or pandas' NA."""
    if value is None:
        return True
    try:
        return bool(value != value)
    except (TypeError, ValueError):  # of NA, which is neither equal nor unequal; of an array, whose numbers are many
        return is_pandas(value)


def _columns(raw: Any, expected: Expected, what: str) -> Tensor:
    """Targets of several columns as float32 (N, C)."""
    if is_pandas(raw) and hasattr(raw, "columns"):
        require_own_names(list(raw.columns), what)
    try:
        values = tensor_of(raw, what).float()
    except ValueError:
        raise _wrong(raw, expected, what) from None
    if values.dim() == 1 and expected.outputs == 1:
        values = values.unsqueeze(1)
    if values.dim() != 2 or values.shape[1] != expected.outputs:
        raise _wrong(raw, expected, what)
    require_finite(values, what)
    if expected.kind == "number":
        require_told_apart(raw, what)
    return values


def require_told_apart(numbers: Any, what: str) -> None:
    """Raises ValueError for a column of numbers (N, ...) whose range float32, in which they are learned, cannot hold.

    That is, the largest rounding error is above a hundredth of the range.
    """
    if isinstance(numbers, Tensor):
        numbers = numbers.detach().cpu()
        numbers = numbers.float() if numbers.dtype == torch.bfloat16 else numbers
    exact = np.asarray(numbers, dtype=np.float64)
    if not len(exact):
        return
    error, spread = np.abs(exact - exact.astype(np.float32)).max(0), np.ptp(exact, 0)
    if bool(np.any((error > 0.01 * spread) & (spread > 0))):
        raise ValueError(
            f"{what}: numbers such as {exact.flat[0]:g} differ by less than float32 keeps of them: subtract their mean "
            "first."
        )


def _tokens(raw: Any, expected: Expected, what: str) -> Tensor:
    try:
        values = tensor_of(raw, what)
    except ValueError:
        raise _wrong(raw, expected, what) from None
    if values.dim() != 2 or values.is_floating_point() or values.dtype == torch.bool:
        raise _wrong(raw, expected, what)
    values = values.long()
    bad = ((values < 0) & (values != IGNORED)) | (values >= expected.outputs)
    if bool(bad.any()):
        raise ValueError(
            f"{what}: the token {int(values[bad][0])} is out of range: tokens are 0 to {expected.outputs - 1}, or "
            f"{IGNORED} for one that is not to be predicted."
        )
    return values


def _in_range(values: Tensor, count: int, what: str) -> Tensor:
    if len(values) and not 0 <= int(values.min()) <= int(values.max()) < count:
        bad = int(values.min()) if int(values.min()) < 0 else int(values.max())
        raise ValueError(f"{what}: the label {bad} is out of range: labels are 0 to {count - 1}, one for each class.")
    return values


def _wrong(raw: Any, expected: Expected, what: str) -> ValueError:
    """The sentence for targets of another kind or shape than the network's."""
    values: Any = raw if hasattr(raw, "shape") and not is_pandas(raw) else np.asarray(raw, dtype=object)
    first = values.reshape(-1)[0] if 0 not in values.shape else None
    shown = f" such as {first.item() if hasattr(first, 'item') else first!r}" if first is not None else ""
    wanted = f"{OBJECTIVES[expected.kind].words} of {expected.outputs} outputs"
    others = "; ".join(f"{INSTEAD[kind]} (targets={kind!r})" for kind in KINDS)
    return ValueError(
        f"{what} of shape {tuple(values.shape)}{shown} does not fit a network that learns {wanted}. "
        f"A rule says what it learns: {others}."
    )


def some(names: Sequence[str]) -> str:
    """The names, or the first of many."""
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _is_whole(name: str) -> bool:
    return name.lstrip("-").isdecimal()
