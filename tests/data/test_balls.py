"""Laws of balls: projections against a solver, samples, directions of steepest ascent."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize
from support.refusals import refused

from isthmus.data import L1, L2, Linf

KINDS = [Linf, L2, L1]
BALLS = pytest.mark.parametrize("kind", KINDS)
ORDER = {Linf: np.inf, L2: 2, L1: 1}


def draws(seed: int, n: int = 5, d: int = 6, scale: float = 1.0):
    """A perturbation, and the box [0, 1] seen from a point in it, some of whose values are on its
    border.
    """
    g = torch.Generator().manual_seed(seed)
    delta = scale * torch.randn(n, 1, d, 1, generator=g, dtype=torch.float64)
    x = (2 * torch.rand(n, 1, d, 1, generator=g, dtype=torch.float64) - 0.5).clamp(0, 1)
    return delta, -x, 1 - x


def solved(kind, eps, delta, low, high):
    """The closest point by a general solver: delta = up - down, both >= 0, makes the l1 and l-inf
    norms smooth.
    """
    d = len(delta)
    within = {
        Linf: lambda v: eps - v,
        L2: lambda v: np.array([eps**2 - ((v[:d] - v[d:]) ** 2).sum()]),
        L1: lambda v: np.array([eps - v.sum()]),
    }[kind]
    bounds = [(0, max(h, 0)) for h in high] + [(0, max(-x, 0)) for x in low]
    found = minimize(
        lambda v: ((v[:d] - v[d:] - delta) ** 2).sum(),
        np.full(2 * d, 1e-3),
        bounds=bounds,
        method="SLSQP",
        constraints={"type": "ineq", "fun": within},
        options={"maxiter": 500, "ftol": 1e-14},
    )
    return found.x[:d] - found.x[d:]


@BALLS
@pytest.mark.parametrize("boxed", [False, True], ids=["ball", "ball and box"])
@pytest.mark.parametrize("eps", [0.3, 1.2])
def test_projection_is_the_closest_point(kind, boxed, eps):
    delta, low, high = draws(1)
    bounds = (low, high) if boxed else (None, None)
    projected = kind(eps).project(delta, *bounds)
    for i in range(len(delta)):
        lows, highs = (
            b[i].flatten().numpy() if boxed else np.full(6, s * 9.0)
            for b, s in ((low, -1), (high, 1))
        )
        best = solved(kind, eps, delta[i].flatten().numpy(), lows, highs)
        np.testing.assert_allclose(projected[i].flatten().numpy(), best, atol=2e-5)


@BALLS
@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    eps=st.sampled_from([0.0, 1e-4, 0.1, 1.0, 50.0]),
    dtype=st.sampled_from([32, 64]),
)
def test_projection_lands_inside_and_stays(kind, seed, eps, dtype):
    delta, low, high = (
        v.to(torch.float32 if dtype == 32 else torch.float64) for v in draws(seed, scale=2.0)
    )
    ball, slack = kind(eps), 1e-6 if dtype == 32 else 1e-12
    for bounds in ((), (low, high)):
        once = ball.project(delta, *bounds)
        assert (
            ball.contains(once, slack).all()
            and once.dtype == delta.dtype
            and once.shape == delta.shape
        )
        assert torch.allclose(ball.project(once, *bounds), once, atol=slack, rtol=0)
        inside = ball.contains(delta, 0.0)
        assert bounds or torch.equal(once[inside], delta[inside])
        if bounds:
            assert (once >= low).all() and (once <= high).all()


@BALLS
def test_each_sample_is_projected_on_its_own(kind):
    delta, low, high = draws(3)
    together = kind(0.7).project(delta, low, high)
    alone = torch.cat(
        [kind(0.7).project(delta[i : i + 1], low[i : i + 1], high[i : i + 1]) for i in range(5)]
    )
    assert torch.equal(together, alone)


@BALLS
def test_norms_are_those_of_numpy(kind):
    delta = draws(4)[0]
    expected = [np.linalg.norm(each.flatten().numpy(), ORDER[kind]) for each in delta]
    np.testing.assert_allclose(kind(1.0).norm(delta).numpy(), expected)
    largest = max(expected)
    assert (
        kind(largest).contains(delta, 1e-9).all() and not kind(largest - 1e-3).contains(delta).all()
    )


def values(direction, gradient):
    return (direction * gradient).flatten(1).sum(1)


@BALLS
def test_no_direction_of_unit_norm_rises_faster_than_the_steepest(kind):
    gradient = draws(5)[0]
    ball = L1(1.0, share=0) if kind is L1 else kind(1.0)
    steepest = ball.steepest(gradient)
    assert torch.allclose(ball.norm(steepest), torch.ones(5, dtype=torch.float64))
    dual = {Linf: 1, L2: 2, L1: np.inf}[kind]
    best = [np.linalg.norm(each.flatten().numpy(), dual) for each in gradient]
    np.testing.assert_allclose(values(steepest, gradient).numpy(), best)
    assert (ball.steepest(torch.zeros_like(gradient)) == 0).all()
    small = ball.steepest(gradient.float() * 1e-30)
    assert torch.allclose(small, steepest.float(), atol=1e-5), (
        "gradients of 1e-30 have a direction too"
    )


@pytest.mark.parametrize("share", [0.0, 0.34, 0.5, 1.0])
def test_an_l1_step_is_the_best_whose_values_are_no_larger_than_its_share(share):
    """By linear programming: max <g, d> with ||d||_1 <= 1 and |d_i| <= 1 / k."""
    gradient = draws(6)[0]
    k = max(1, round(share * 6))
    for each, step in zip(gradient, L1(1.0, share).steepest(gradient), strict=True):
        g = each.flatten().numpy()
        found = linprog(-np.r_[g, -g], A_ub=np.ones((1, 12)), b_ub=[1], bounds=(0, 1 / k))
        assert float(step.flatten().numpy() @ g) == pytest.approx(-found.fun)


@BALLS
def test_samples_are_uniform_in_the_ball(kind):
    ball, d = kind(0.4), 3
    drawn = ball.sample((4000, 1, d, 1), torch.Generator().manual_seed(0))
    assert ball.contains(drawn).all()
    radii = ball.norm(drawn) / 0.4
    for share in (0.3, 0.6, 0.9):  # of a uniform draw, the share r^d lies within the radius r
        assert float((radii <= share).double().mean()) == pytest.approx(share**d, abs=0.03)
    assert drawn.mean(0).abs().max() < 0.02
    again = ball.sample((4000, 1, d, 1), torch.Generator().manual_seed(0))
    assert torch.equal(drawn, again)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Linf(-0.1),
        lambda: L2(float("nan")),
        lambda: L1(float("inf")),
        lambda: L1(1.0, share=2.0),
    ],
)
def test_what_is_no_ball_is_refused(make):
    refused(make)
