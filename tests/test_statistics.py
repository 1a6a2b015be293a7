"""Statistics against scipy, and against published or independently computed numbers."""

import numpy as np
import pytest
from scipy import stats

from forwardonly.measure.statistics import holm, mean_and_deviation, mean_interval, paired_test

A = [92.1, 93.4, 92.8, 93.9, 92.5]
B = [91.8, 92.9, 92.9, 93.0, 92.0]


def test_paired_test_is_scipys():
    ours, theirs = paired_test(A, B), stats.ttest_rel(A, B)
    assert ours.n == 5
    assert ours.t == pytest.approx(theirs.statistic, rel=1e-9)
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-9)
    assert ours.difference_ci == pytest.approx(tuple(theirs.confidence_interval(0.95)), rel=1e-9)
    difference = np.subtract(A, B)
    assert ours.cohens_d == pytest.approx(difference.mean() / difference.std(ddof=1), rel=1e-9)


def test_the_interval_of_the_effect_covers_it_as_often_as_it_says():
    generator = np.random.default_rng(0)
    effect, covered = 0.8, 0
    for _ in range(200):
        low, high = paired_test(list(generator.normal(effect, 1.0, 6)), [0.0] * 6).cohens_d_ci
        covered += low <= effect <= high
    assert 0.91 <= covered / 200 <= 0.99


def test_the_interval_of_the_effect_holds_the_extreme_noncentralities():
    result = paired_test(A, B)
    low, high = (bound * np.sqrt(5) for bound in result.cohens_d_ci)
    assert stats.nct.sf(result.t, 4, low) == pytest.approx(0.025, abs=1e-4)
    assert stats.nct.cdf(result.t, 4, high) == pytest.approx(0.025, abs=1e-4)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_effects_of_any_size_have_an_interval(scale):
    values = list(scale + np.array([0.1, -0.2, 0.3, -0.1, 0.05]))
    for n in (2, 5):  # with two seeds and large effects scipy's noncentral t gives NaN
        result = paired_test(values[:n], [0.0] * n)
        assert result.cohens_d_ci[0] < result.cohens_d < result.cohens_d_ci[1]


def test_mean_and_its_interval_are_scipys():
    mean, deviation = mean_and_deviation(A)
    assert (mean, deviation) == (pytest.approx(np.mean(A)), pytest.approx(np.std(A, ddof=1)))
    expected = stats.t.interval(0.95, 4, loc=np.mean(A), scale=stats.sem(A))
    assert mean_interval(A) == pytest.approx(expected, rel=1e-9)


def test_holm_is_his():
    # Worked by hand: sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1, never falling.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([None, 0.02, 0.5]) == [None, pytest.approx(0.04), 0.5]
    assert holm([]) == []


def test_what_cannot_be_said_is_none():
    one = paired_test([0.9], [0.8])
    assert one.difference == pytest.approx(0.1) and one.p is None and one.difference_ci is None
    same = paired_test([0.9, 0.8, 0.7], [0.8, 0.7, 0.6])
    assert same.p is None and same.cohens_d is None and same.difference_ci == pytest.approx((0.1, 0.1))
    assert mean_interval([1.0]) is None
    with pytest.raises(ValueError, match="not 1 and 2"):
        paired_test([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="no values"):
        mean_and_deviation([])
