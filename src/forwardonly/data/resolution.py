"""Whether float32, in which networks compute, still tells the values of a column apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from forwardonly.data.inputs import array_of, is_pandas, names_in, table_of

LOOKED_AT = 1 << 20  # numbers, of rows spread evenly: enough to tell a column of few levels from one of many
FEWEST_ROWS = 32
LEVELS = 50  # of a column that float32 has so many levels of, the rounding is below a hundredth of the range
NOISE = 2.0**-40  # of a value: float64 numbers that differ by no more are one number with rounding errors


def require_columns_told_apart(raw: Any, what: str) -> None:
    """ValueError for a column of inputs (N, ...) of which float32 keeps less than half of the values, and few levels.

    A Unix time is one: within two minutes float32 makes one number of all of them. Columns of one value are none, nor
    are those that differ by rounding errors alone. What is no number is not looked at.
    """
    if isinstance(raw, dict | tuple):
        named = raw.items() if isinstance(raw, dict) else enumerate(raw)
        for name, part in named:
            require_columns_told_apart(part, f"{what}[{name!r}]")
        return
    values = _some(raw, what)
    if values is None:
        return
    ordered = np.sort(values, axis=0)
    low, high = ordered[:-1], ordered[1:]
    with np.errstate(over="ignore", invalid="ignore"):
        apart = high != low if values.dtype.kind in "iu" else high - low > NOISE * np.maximum(np.abs(low), np.abs(high))
        rounded = ordered.astype(np.float32)
    levels, kept = 1 + apart.sum(0), 1 + (rounded[1:] != rounded[:-1]).sum(0)
    bad = np.argwhere((2 * kept <= levels) & (kept < LEVELS))
    if not len(bad):
        return
    place, names = tuple(bad[0].tolist()), names_in(raw)
    column = repr(names[place[0]]) if names is not None else str(place[0] if len(place) == 1 else place)
    raise ValueError(
        f"{what}: numbers such as {ordered[(0, *place)]} in column {column} differ by less than float32 keeps of them: "
        "subtract their mean first, or drop the column."
    )


def _some(raw: Any, what: str) -> np.ndarray | None:
    """Rows of inputs in their own precision, (n, ...); None where float32 holds every number of the type."""
    values: Any = raw
    if isinstance(raw, Tensor):
        if raw.element_size() < 4 or raw.is_complex() or (raw.is_floating_point() and raw.element_size() < 8):
            return None
        values = raw.detach()
    elif isinstance(raw, list) and raw and isinstance(raw[0], Tensor):
        return None
    elif not is_pandas(raw) and not isinstance(raw, np.ndarray):
        values = array_of(raw, what)
    count = len(values) if values.ndim > 1 else 0
    if count < 2:
        return None
    numbers = max(1, int(np.prod(values.shape[1:])))
    rows = np.linspace(0, count - 1, min(count, max(FEWEST_ROWS, LOOKED_AT // numbers))).astype(np.int64)
    if is_pandas(values):
        try:
            found = table_of(values.iloc[rows], what)
        except ValueError:  # an estimator takes numbers in columns of objects too
            return None
    else:
        found = values[torch.from_numpy(rows)].cpu().numpy() if isinstance(values, Tensor) else values[rows]
    exact = found.dtype.kind in "iu" and found.dtype.itemsize >= 4
    return found if exact or (found.dtype.kind == "f" and found.dtype.itemsize >= 8) else None
