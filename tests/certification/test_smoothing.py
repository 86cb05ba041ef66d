"""Randomized smoothing: the interval against scipy, and a network known in closed form."""

from statistics import NormalDist

import pytest
import torch
from scipy.stats import binomtest
from torch import nn

from isthmus import L2
from isthmus.certification import Smoothing
from isthmus.certification.smoothing import least_share
from isthmus.models import implicit_mlp
from isthmus.models.zoo import implicit

pytestmark = pytest.mark.numeric


@pytest.mark.parametrize("n", [1, 7, 100, 1000])
@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_the_interval_is_that_of_scipy(n, alpha):
    hits = torch.tensor(sorted({0, 1, n // 2, n - 1, n}))
    low = least_share(hits, n, alpha)
    for h, value in zip(hits.tolist(), low.tolist(), strict=True):
        exact = binomtest(h, n, alternative="greater").proportion_ci(1 - alpha, method="exact")
        assert value == pytest.approx(exact.low, abs=1e-12)


class Halves(nn.Module):
    """Class 1 where the first pixel is above a half: smoothed, its radius is the distance."""

    def forward(self, x):
        first = x.flatten(1)[:, :1] - 0.5
        return torch.cat([-first, first, torch.full_like(first, -9.0)], 1)


def test_the_radius_is_the_distance_to_a_plane_from_below():
    first = torch.tensor([0.5, 0.55, 0.7, 0.9, 0.1])
    x = torch.cat([first[:, None], torch.rand(5, 8)], 1).view(5, 1, 3, 3)
    y = torch.tensor([1, 1, 1, 1, 1])
    certifier = Smoothing(sigma=0.25, samples=4000, alpha=0.001)
    radius, votes = certifier.radii(Halves(), x)
    true = (first - 0.5).abs().double()
    assert votes.sum(1).tolist() == [100] * 5
    assert (radius <= true + 1e-6).all() and (radius[2:4] > true[2:4] - 0.05).all()
    margin = certifier(Halves(), x, y, L2(0.1))
    assert margin[4] == -torch.inf and (margin[2:4] > 0).all()
    assert margin[0] == -0.1 or margin[0] == -torch.inf  # abstains
    again = certifier(Halves(), x, y, L2(0.0))
    torch.testing.assert_close(again[2:4] - margin[2:4], torch.full((2,), 0.1).double())


def test_the_share_of_answers_decides_the_radius():
    x = torch.full((1, 1, 1, 1), 0.6)
    certifier = Smoothing(sigma=0.2, samples=2000, alpha=0.01)
    radius, _ = certifier.radii(Halves(), x)
    share = NormalDist().cdf(0.1 / 0.2)
    low = least_share(torch.tensor(round(2000 * share)), 2000, 0.01)
    assert float(radius) == pytest.approx(0.2 * NormalDist().inv_cdf(float(low)), abs=0.01)


def test_serial_reuse_of_the_fixed_point_leaves_every_answer_as_it_is(monkeypatch):
    torch.manual_seed(0)
    net = implicit_mlp(9, 20, 3).eval()
    nn.init.normal_(net.equilibrium.mixing)
    x, y = torch.rand(40, 1, 3, 3), torch.arange(40) % 3
    certifier = Smoothing(sigma=0.25, samples=200, selection=20)
    reused = certifier(net, x, y, L2(0.05))
    monkeypatch.setattr(implicit.Equilibrium, "_start", lambda self, injected: None)
    torch.testing.assert_close(reused, certifier(net, x, y, L2(0.05)), rtol=0, atol=1e-12)
