"""What range numbers hold, decided in one place for arrays and for networks."""

from __future__ import annotations

import numpy as np

HALF_LEVEL = 1 / 510  # floats this far outside 0 to 1 still round to a pixel's value
DARK = 64  # whole numbers that all stay below are less than a quarter of the range: most likely another scale


def is_unit(low: float, high: float) -> bool:
    """Whether floats from `low` to `high` are 0 to 1, within half a pixel's level."""
    return low >= -HALF_LEVEL and high <= 1 + HALF_LEVEL


def require_unit(low: float, high: float, what: str) -> None:
    """ValueError unless floats from `low` to `high` are 0 to 1, within half a pixel's level; `what`: "x holds"."""
    if not is_unit(low, high):
        raise ValueError(f"{what} floats from {low:g} to {high:g}, they must be 0 to 1")


def scale_top(*arrays: np.ndarray) -> int:
    """The whole number that is white in arrays of one set: 255, or 1, 2, 4 ... 32 or 64 if none of them reaches 64.

    The next power of two, and not the largest number itself, so that parts of a set and sets of one kind agree:
    scikit-learn's digits hold 0 to 16, a few of them perhaps 0 to 15.
    """
    whole = [int(x.max()) for x in arrays if x.dtype.kind in "iu" and x.size]
    high = max(whole, default=255)
    return 1 << (high - 1).bit_length() if 0 < high < DARK else 255


def dark(what: str, high: int) -> str | None:
    """The sentence for bytes that all stay within `high`, where nothing says that they have another scale."""
    if not 0 < high < DARK:
        return None
    return (
        f"{what}: no pixel is brighter than {high} of 255, so all are nearly black; if {high} is meant to be white, "
        f"multiply them by {255 // high}"
    )


def to_bytes(x: np.ndarray, what: str, top: int | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Numbers with images along the first axis as uint8 of the same shape, and a note of what was assumed, if anything.

    Floats 0 to 1 and truth values are spread over 0 to 255; whole numbers 0 to 255 stay, but if none of them reaches 64
    they are spread over 0 to 255 too, so that `top` becomes 255 (by default `scale_top` of x itself): rules differ in
    what they make of images that are nearly black. Raises ValueError for others.
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
    top = scale_top(x) if top is None else top
    if top == 255:
        return x.astype(np.uint8), ()
    levels = np.rint(np.arange(256) * 255 / top).clip(0, 255).astype(np.uint8)
    return levels[x], (f"{what} holds whole numbers {low} to {high}, spread over 0 to 255 so that {top} is white",)
