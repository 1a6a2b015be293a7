"""Statistics over seeds: the difference between two arms, its significance and its size.

Arms are compared seed by seed: run k of both has the same split and the same order of images, so differences are
tested. All intervals are two-sided at 95 %. Needs scipy (`pip install 'forward-only[stats]'`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

CONFIDENCE = 0.95
TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
QUANTILES = 4000


@dataclass(frozen=True)
class PairedTest:
    """`difference` is the mean of a - b; `p` is that of the paired t-test; `cohens_d` is that mean over its deviation.

    An undefined figure is None: with one pair, all but the difference; with equal differences, those divided by their
    deviation.
    """

    n: int
    difference: float
    difference_ci: tuple[float, float] | None
    t: float | None
    p: float | None
    cohens_d: float | None
    cohens_d_ci: tuple[float, float] | None


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n - 1), the latter None for a single value.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("There are no values to take the mean of.")
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Student's confidence interval of a mean, None for a single value.

    Raises:
        ValueError: no values.
    """
    mean, deviation = mean_and_deviation(values)
    if deviation is None:
        return None
    half = float(_scipy().t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * deviation / math.sqrt(len(values))
    return mean - half, mean + half


def paired_test(a: Sequence[float], b: Sequence[float]) -> PairedTest:
    """Compares the values of two arms, pair by pair.

    Raises:
        ValueError: no pairs, or not as many values of one arm as of the other.
    """
    if len(a) != len(b):
        raise ValueError(f"A paired test needs as many values of one arm as of the other, not {len(a)} and {len(b)}.")
    differences = [one - other for one, other in zip(a, b, strict=True)]
    mean, deviation = mean_and_deviation(differences)
    n = len(differences)
    if deviation is None or deviation <= 1e-12 * max(map(abs, [*a, *b])):  # rounding is no deviation
        interval = None if deviation is None else (mean, mean)
        return PairedTest(n, mean, interval, None, None, None, None)
    d = mean / deviation
    t = d * math.sqrt(n)
    p = float(2 * _scipy().t.sf(abs(t), n - 1))
    return PairedTest(n, mean, mean_interval(differences), t, p, d, _effect_interval(t, n))


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction of several p-values, in their order; None stays None and does not count.

    Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    order = sorted((p, index) for index, p in enumerate(ps) if p is not None)
    corrected: list[float | None] = [None] * len(ps)
    highest = 0.0
    for rank, (p, index) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        corrected[index] = highest
    return corrected


def _effect_interval(t: float, n: int) -> tuple[float, float]:
    """Exact interval of the paired Cohen's d: the noncentralities under which t would be just as extreme.

    T = (Z + nc) / s with s = chi / sqrt(n - 1), so P(T <= t) is the mean of Phi(t s - nc) over s. We take it over
    quantiles of s, since scipy's own noncentral t gives NaN for few seeds and large effects.
    """
    import numpy as np
    from scipy.optimize import brentq

    stats = _scipy()
    quantiles = (np.arange(QUANTILES) + 0.5) / QUANTILES
    s = np.sqrt(stats.chi2.ppf(quantiles, n - 1) / (n - 1))

    def excess(noncentrality: float, tail: float) -> float:
        return float(stats.norm.cdf(t * s - noncentrality).mean()) - tail

    low, high = float((t * s).min()) - 10, float((t * s).max()) + 10
    bounds = [brentq(excess, low, high, args=(tail,)) / math.sqrt(n) for tail in reversed(TAILS)]
    return float(bounds[0]), float(bounds[1])


def _scipy() -> Any:
    try:
        from scipy import stats
    except ImportError:
        raise ValueError("Statistics need scipy: pip install 'forward-only[stats]'.") from None
    return stats
