"""Correlation against scipy, and p-values that dependent points do not fool."""

import numpy as np
import pytest
from scipy.stats import linregress, pearsonr, spearmanr
from support.refusals import refused

from isthmus.metrics.correlation import (
    Correlation,
    Series,
    combine,
    correlate,
    over_repeats,
    r_squared,
)

pytestmark = pytest.mark.numeric

T = tuple(i / 20 for i in range(21))


def series(values, name="a", t=T):
    return Series(name, t, tuple(float(v) for v in values))


def walk(rng, m=21):
    return rng.standard_normal(m).cumsum()


def test_coefficients_are_scipys():
    rng = np.random.default_rng(0)
    for _ in range(5):
        a, b = rng.standard_normal((2, 21))
        found = correlate(series(a), series(b, "b"))
        assert found.pearson == pytest.approx(pearsonr(a, b).statistic)
        assert found.spearman == pytest.approx(spearmanr(a, b).statistic)
        assert (found.first, found.second, found.m) == ("a", "b", 21)


def test_a_shift_is_compared_with_all_shifts():
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 21))
    naive = [abs(pearsonr(np.roll(a, k), b).statistic) for k in range(21)]
    assert correlate(series(a), series(b)).pearson_p == pytest.approx(
        np.mean(np.array(naive) >= naive[0] - 1e-12)
    )


def ring(rng, m=21, width=5):
    """A series that follows itself and closes: what circular shifts leave as it was."""
    noise = rng.standard_normal(m)
    return sum(np.roll(noise, i) for i in range(width))


@pytest.mark.parametrize(
    "null, make, most",
    [("shift", ring, 0.1), ("block", ring, 0.1), ("block", walk, 0.1), ("shift", walk, 0.35)],
)
def test_unrelated_series_are_seldom_called_related(null, make, most):
    """Points that follow each other fool a plain p-value in a third of the cases or in half of
    them.

    Shifts are exact where the series closes. A walk has a trend, which a shift breaks: one in four
    passes there."""
    rng, plain, ours = np.random.default_rng(2), [], []
    for _ in range(200):
        a, b = make(rng), make(rng)
        plain.append(pearsonr(a, b).pvalue)
        ours.append(correlate(series(a), series(b), null, draws=99).pearson_p)
    found, fooled = (np.mean(np.array(p) <= 0.05) for p in (ours, plain))
    assert found < most and found < fooled / 1.5 and fooled > 0.2


@pytest.mark.parametrize("null", ["shift", "block"])
def test_what_is_related_is_found(null):
    rng = np.random.default_rng(3)
    a = walk(rng)
    found = correlate(series(a), series(2 * a + 1), null)
    assert (
        found.pearson == pytest.approx(1) and found.pearson_p <= 0.06 and found.spearman_p <= 0.06
    )
    assert correlate(series(a), series(a), null) == correlate(series(a), series(a), null)


def test_series_on_different_grids_are_refused():
    other = tuple(i / 21 for i in range(21))
    refused(lambda: correlate(series(T), series(T, "b", other)), "same t")
    refused(lambda: correlate(series(T), series(T[:11], "b", T[:11])), "at 11")
    refused(lambda: r_squared([series(T)], [series(T, "b", other)]), "same t")
    refused(lambda: Series("a", T, (1.0,)), "1 values")
    refused(lambda: correlate(series(T), series(T), "plain"), "'plain'")


def test_a_constant_series_goes_with_nothing():
    found = correlate(series(T), series([1.0] * 21))
    assert np.isnan([found.pearson, found.pearson_p, found.spearman, found.spearman_p]).all()


def test_r_squared_is_that_of_a_regression_with_an_intercept_a_path():
    rng = np.random.default_rng(4)
    a, b = rng.standard_normal((2, 21))
    assert r_squared([series(a)], [series(b)]) == pytest.approx(linregress(b, a).rvalue ** 2)
    both = r_squared([series(a + 3 * b), series(10 + a + 3 * b)], [series(a)] * 2, [series(b)] * 2)
    assert both == pytest.approx(1)
    assert r_squared([series(a)], [series(a)], [series(np.ones(21))]) == pytest.approx(1)
    assert np.isnan(r_squared([series(np.ones(21))], [series(a)]))


def test_repeats_have_students_interval_and_one_has_none():
    found = over_repeats([0.1, 0.2, 0.4, float("nan")])
    assert found.repeats == 3 and found.low < 0.1 and found.high > 0.4
    one = over_repeats([0.3])
    assert one.value == 0.3 and np.isnan(one.low)


def correlation(r, p=0.05, m=21):
    return Correlation("a", "b", m, r, p, r, p)


@pytest.mark.parametrize("kind", ["pearson", "spearman"])
def test_paths_are_combined_in_fishers_z(kind):
    estimate, p = combine([correlation(0.9), correlation(0.95), correlation(0.99, 0.1)], kind)
    assert 0.3 < estimate.low < 0.95 < estimate.high < 1 and p < 0.02


def test_a_perfect_rank_correlation_is_no_outlier():
    swapped = list(range(21))
    swapped[3], swapped[4] = swapped[4], swapped[3]
    nearly = spearmanr(range(21), swapped).statistic  # the largest below 1
    estimate, _ = combine([correlation(1.0), correlation(nearly), correlation(nearly)], "spearman")
    assert nearly < estimate.value < 1 and estimate.low > 0.99
