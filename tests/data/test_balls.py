"""Laws of balls: projections against exact ones, samples, directions of steepest ascent."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.refusals import refused

from isthmus.data import L1, L2, Linf

pytestmark = pytest.mark.numeric

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


HELD, BOUND, FREE = 0, 1, 2  # a value of the closest point is 0, at its bound, or between
PATTERNS = np.array(list(product((HELD, BOUND, FREE), repeat=6)))


def candidates(kind, eps, sizes, room):
    """Every point that can be the closest one, (k, 6): for each pattern, that of the ball's border.

    With the pattern given, the free values solve one equation: a common factor for l2, a common
    decrease for l1.
    """
    free = PATTERNS == FREE
    bound = np.where(PATTERNS == BOUND, room, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        if kind is L2:
            left = np.sqrt(eps**2 - (bound**2).sum(1))
            inner = sizes * (left / np.sqrt((free * sizes**2).sum(1)))[:, None]
        else:
            left = eps - bound.sum(1)
            inner = sizes - (((free * sizes).sum(1) - left) / free.sum(1))[:, None]
    on_border = np.where(free, inner, bound)
    return np.concatenate([on_border, np.minimum(sizes, room)[None]])


def closest(kind, eps, delta, low, high):
    """The closest point of ball and box by trying every pattern of active bounds, in float64."""
    sizes, room = np.abs(delta), np.where(delta > 0, high, -low)
    if kind is Linf:
        return np.sign(delta) * np.minimum(np.minimum(sizes, eps), room)
    points = candidates(kind, eps, sizes, room)
    inside = ((points >= -1e-14) & (points <= room + 1e-14)).all(1)  # NaN is outside
    inside &= np.linalg.norm(points, ORDER[kind], axis=1) <= eps + 1e-14
    points = points[inside]
    return np.sign(delta) * points[((points - sizes) ** 2).sum(1).argmin()]


@BALLS
@pytest.mark.parametrize("boxed", [False, True], ids=["ball", "ball and box"])
@pytest.mark.parametrize("eps", [0.3, 1.2])
@pytest.mark.parametrize("seed", [1, 2])
def test_projection_is_the_closest_point(kind, boxed, eps, seed):
    delta, low, high = draws(seed)
    bounds = (low, high) if boxed else (None, None)
    projected = kind(eps).project(delta, *bounds)
    if not boxed:
        low, high = torch.full_like(delta, -9.0), torch.full_like(delta, 9.0)
    for i in range(len(delta)):
        best = closest(kind, eps, *(v[i].flatten().numpy() for v in (delta, low, high)))
        np.testing.assert_allclose(projected[i].flatten().numpy(), best, rtol=0, atol=1e-12)


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
    """max <g, d> with ||d||_1 <= 1 and |d_i| <= 1 / k: the vertices are k signs of 1 / k."""
    gradient = draws(6)[0]
    k = max(1, round(share * 6))
    vertices = np.array([v for v in product((-1, 0, 1), repeat=6) if np.abs(v).sum() == k]) / k
    for direction, step in zip(gradient, L1(1.0, share).steepest(gradient), strict=True):
        g = direction.flatten().numpy()
        best = (vertices @ g).max()
        assert float(step.flatten().numpy() @ g) == pytest.approx(best, rel=1e-12)


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
