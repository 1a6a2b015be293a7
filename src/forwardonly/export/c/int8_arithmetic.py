"""The arithmetic of `int8.py`: numbers of fixed scales, and functions of them without floats."""

import math

import numpy as np
from numpy.typing import ArrayLike

Array = np.ndarray
ONE = 4
"""A signal of 1.0 is 2^ONE."""
COSINE = 13
"""A cosine of 1.0 is 2^COSINE."""
CHANCE = 15
"""A probability of 1.0 is 2^CHANCE."""
BITS = 11
"""Bits of a gradient."""
LARGEST_MAP = 1 << 13
"""Products with a gradient whose sum fits into an int32: 11 + 7 + 13 bits."""
LARGEST_FAN_IN = 1 << 17
"""Products of weights and signals whose sum fits into an int32: 7 + 7 + 17 bits."""
LARGEST_NORMED = 1 << 12
"""Products of weights and signals of which 16 times a sum, and the deviation of two, fit into an int32."""
SMALLEST_EPSILON = 1e-7
"""Of a batch norm: 127 / the root of it, at 2^12, fits into an int32."""
LARGEST_RATE = 16
"""The largest learning rate: 2^20 at 2^16, so that its product with a sum of gradients fits into an int64."""
MOST = 2**31 - 1
"""The largest sum of steps, and the largest bias."""

WHOLE = [round(2**CHANCE * math.exp(-i)) for i in range(16)]
PART = [round(2**CHANCE * math.exp(-i / 64)) for i in range(64)]
"""exp(-t / 64) is WHOLE[t // 64] PART[t % 64], both of 2^CHANCE."""


def shifted(values: ArrayLike, bits: int) -> Array:
    """values / 2^bits."""
    values = np.asarray(values, np.int64)
    if bits > 62:
        return np.zeros_like(values)
    return (values + (1 << (bits - 1))) >> bits if bits > 0 else values * (1 << -bits)


def divided(values: ArrayLike, by: ArrayLike) -> Array:
    """values / by, for by > 0."""
    by = np.asarray(by, np.int64)
    return (2 * np.asarray(values, np.int64) + by) // (2 * by)


def clamped(values: Array) -> Array:
    """Values as an int8 holds them, from -127 to 127."""
    return np.clip(values, -127, 127)


def root(value: int) -> int:
    """The whole part of a square root."""
    return math.isqrt(int(value))


def unit_rms(values: Array) -> Array:
    """Values with a root mean square of 1, as a signal."""
    squares, size = int((values**2).sum()), values.size
    if squares == 0:
        return values
    factor = int(divided(size << (ONE + 16), root((squares * size) << 8)))  # 2^(ONE + 12) / rms
    return clamped(shifted(values * factor, 12))


def standardised(values: Array) -> Array:
    """Values with mean 0 and deviation 1."""
    count, total = values.size, int(values.sum())
    spread = count * int((values**2).sum()) - total**2  # count^2 times the variance
    factor = (1 << (ONE + 16)) // max(1, root(spread))
    return clamped(shifted((values * count - total) * factor, 16))


def surprise(scores: Array, bits: int, label: int) -> tuple[Array, int]:
    """softmax - one-hot of scores, 64 times too large, of `bits` behind the point; and by how many bits it is larger
    than at 2^CHANCE, so that its largest value has at least 14.
    """
    below = (int(scores.max()) - scores) >> bits
    powers = np.array([exponential(t) for t in below.tolist()], np.int64)
    errors = (powers << CHANCE) // int(powers.sum())
    errors[label] -= 1 << CHANCE
    return raised(errors)


def raised(errors: Array) -> tuple[Array, int]:
    """Errors so many bits larger that the largest has at least 14, and how many those are."""
    up, largest = 0, int(np.abs(errors).max())
    while 0 < largest < 1 << (CHANCE - 1):
        largest, up = largest * 2, up + 1
    return errors << up, up


def exponential(t: int) -> int:
    """exp(-t / 64) at 2^CHANCE."""
    return 0 if t >= 1024 else WHOLE[t >> 6] * PART[t & 63] >> CHANCE


def sigmoid(z: int, bits: int) -> int:
    """1 / (1 + exp(-z)) at 2^CHANCE, of a z that is 64 times too large and has `bits` behind the point."""
    power = exponential(abs(z) >> bits)
    return ((1 << CHANCE if z >= 0 else power) << CHANCE) // ((1 << CHANCE) + power)


def excess(largest: int, bits: int) -> int:
    """By how many bits a value is longer than `bits`."""
    return max(0, largest.bit_length() - bits)


def fitted(gradient: Array, bits: int) -> tuple[Array, int]:
    """A gradient whose largest value has BITS bits, and the bits behind its point."""
    largest, down = int(np.abs(gradient).max()), 0
    while largest >= 1 << BITS:
        largest, down = largest >> 1, down + 1
    while 0 < largest < 1 << (BITS - 1):
        largest, down = largest << 1, down - 1
    return shifted(gradient, down), bits - down
