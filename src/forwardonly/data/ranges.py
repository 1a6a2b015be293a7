"""What range numbers hold, decided in one place for arrays and for networks."""

from __future__ import annotations

import numpy as np

HALF_LEVEL = 1 / 510  # floats this far outside 0 to 1 still round to a pixel's value
DARK = 64  # whole numbers that all stay below are a quarter of the range: most likely another scale


def require_unit(low: float, high: float, what: str) -> None:
    """ValueError unless floats from `low` to `high` are 0 to 1, within half a pixel's level; `what`: "x holds"."""
    if not (low >= -HALF_LEVEL and high <= 1 + HALF_LEVEL):
        raise ValueError(f"{what} floats from {low:g} to {high:g}, they must be 0 to 1")


def to_bytes(x: np.ndarray, what: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Numbers with images along the first axis as uint8 of the same shape, and a note of what was assumed, if anything.

    Floats 0 to 1 and truth values are spread over 0 to 255; whole numbers 0 to 255 stay. Raises ValueError for others.
    """
    if not x.size:
        return x.astype(np.uint8), ()
    if x.dtype.kind == "f":
        if not np.isfinite(x).all():
            bad = int(np.nonzero(~np.isfinite(x).reshape(len(x), -1).all(axis=1))[0][0])
            raise ValueError(f"{what} has NaN or infinity in image {bad}")
        require_unit(float(x.min()), float(x.max()), f"{what} holds")
        return np.rint(x.astype(np.float32, copy=False) * 255).clip(0, 255).astype(np.uint8), ()
    if x.dtype.kind == "b":
        return x.astype(np.uint8) * np.uint8(255), ()
    low, high = int(x.min()), int(x.max())
    if low < 0 or high > 255:
        raise ValueError(f"{what} holds numbers from {low} to {high}, they must be 0 to 255")
    notes: tuple[str, ...] = ()
    if 0 < high < DARK:
        right = "write bool or 0 and 255" if high == 1 else "spread them over 0 to 255, or write floats 0 to 1"
        notes = (f"{what} holds whole numbers {low} to {high} of 255, taken as nearly black: {right}",)
    return x.astype(np.uint8), notes
