"""The area under the ROC curve and its interval, against the rank test and root finder of scipy."""

from math import sqrt

import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import mannwhitneyu
from support.refusals import refused

from isthmus.metrics import Area

SIZES = [(1, 1), (30, 7), (100, 100), (2500, 40)]


def scores(n, m):
    """Two groups that overlap and tie."""
    generator = torch.Generator().manual_seed(n + m)
    clean, suspicious = torch.randn(n, generator=generator), torch.randn(m, generator=generator)
    return clean.round(decimals=1), (suspicious + 1).round(decimals=1)


@pytest.mark.parametrize(("n", "m"), SIZES)
def test_the_area_is_the_share_of_pairs_in_order(n, m):
    clean, suspicious = scores(n, m)
    wins = mannwhitneyu(suspicious.double(), clean.double()).statistic
    assert float(Area.of(clean, suspicious)) == pytest.approx(wins / (n * m), abs=1e-15)


@pytest.mark.parametrize(("n", "m"), SIZES)
@pytest.mark.parametrize("area", [0.0, 0.02, 0.5, 0.97, 1.0])
def test_an_end_of_the_interval_is_an_area_of_whose_deviations_this_one_is_1_96_away(area, n, m):
    def deviation(a):
        inner = 1 + ((n + m) / 2 - 1) * ((1 - a) / (2 - a) + a / (1 + a))
        return sqrt(a * (1 - a) * inner / (n * m))

    ours = Area(area, n, m)
    if area < 1:
        high = brentq(
            lambda a: a - area - 1.959963984540054 * deviation(a), area + 1e-13, 1.0, xtol=1e-15
        )
        assert ours.high == pytest.approx(high, abs=1e-12)
    if area > 0:
        low = brentq(
            lambda a: area - a - 1.959963984540054 * deviation(a), 0.0, area - 1e-13, xtol=1e-15
        )
        assert ours.low == pytest.approx(low, abs=1e-12)
    assert 0 <= ours.low <= area <= ours.high <= 1


def test_scores_that_are_no_numbers_are_refused():
    clean, suspicious = scores(5, 5)
    refused(lambda: Area.of(clean, suspicious * torch.nan), "nan")
    refused(lambda: Area.of(clean[:0], suspicious), "0 clean")
