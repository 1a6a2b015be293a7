"""Batch norm in whole numbers, as `int8.py` defines it.

In training it standardises by the statistics of all examples of a batch, as in floats, and for that reason a batch goes
through each block together. Sums of products are standardised before anything is rounded away. Statistics have 4 bits
more than these sums. Running are the mean and the deviation, not the variance, which would need 64 bits.

Shapes: R examples, K channels, P pixels.
"""

from typing import NamedTuple

import numpy as np

from forwardonly.export.c.int8_arithmetic import ONE, Array, clamped, divided, excess, fitted, root, shifted

SHARE = 28
"""The bits behind the point of 1 / deviation in standardising."""
INVERSE = 12
"""The bits behind the point of 1 / deviation in a gradient."""
SPREAD_BITS = 20
"""Bits of the largest deviation where squares are added up."""


class Statistics(NamedTuple):
    """Of a batch, each (K,)."""

    mean: Array
    deviation: Array
    unbiased: Array
    """The deviation from one example less, which moves the running one."""


def statistics(sums: Array, smallest: int) -> Statistics:
    """The statistics of sums (R, K, P)."""
    count = sums.shape[0] * sums.shape[2]
    mean = divided(sums.sum((0, 2)) << ONE, count)
    centred = (sums << ONE) - mean[:, None]
    found = []
    for channel in centred.transpose(1, 0, 2):
        down = excess(int(np.abs(channel).max()), SPREAD_BITS)
        spread = int((shifted(channel, down) ** 2).sum())
        found.append([max(smallest, root(int(divided(spread, n))) << down) for n in (count, count - 1)])
    return Statistics(mean, *np.array(found).T)


def standardised(sums: Array, mean: Array, deviation: Array) -> Array:
    """Sums (R, K, P) by statistics (K,), as a signal."""
    return clamped(shifted(((sums << ONE) - mean[:, None]) * ((1 << (ONE + SHARE)) // deviation)[:, None], SHARE))


def moved(running: Array, own: Array, momentum: float) -> Array:
    """Running statistics, a share `momentum` of the way nearer to a batch's own."""
    return running + shifted(whole_momentum(momentum) * (own - running), 16)


def whole_momentum(momentum: float) -> int:
    """A momentum at 2^16."""
    return round(momentum * 2**16)


def through(
    gradient: Array, bits: int, standard: Array, deviation: Array, scale: Array, scale_bits: int, sum_bits: int
) -> tuple[Array, int]:
    """From the gradient (R, K, P) behind a batch norm that in front of it, s / d (g - mean g - n mean(g n)), where n is
    the standardised value, d the deviation and s the scale; and the bits behind its point.

    Args:
        bits: behind the point of the gradient, which has at most 11 bits.
        sum_bits: behind the point of the sums that were standardised.
    """
    count = gradient.shape[0] * gradient.shape[2]
    means = divided(gradient.sum((0, 2)) << 8, count)
    slopes = divided((gradient * standard).sum((0, 2)) << 8, count)
    inner = (gradient << 8) - means[:, None] - shifted(standard * slopes[:, None], 2 * ONE)
    inner, inner_bits = fitted(inner, bits + 8)
    inverse = (1 << (sum_bits + ONE + INVERSE)) // deviation
    factors, factor_bits = fitted(scale * inverse, scale_bits + INVERSE)
    return inner * factors[:, None], inner_bits + factor_bits
