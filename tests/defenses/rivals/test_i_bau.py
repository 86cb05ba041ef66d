"""I-BAU: the implicit gradient against brute force, the perturbation's ball, and what is
unlearned."""

import copy
from functools import partial

import pytest
import torch
from support.networks import data, network
from torch import nn

from isthmus import fit, recalibrate
from isthmus.defenses import IBAU
from isthmus.defenses.rivals.i_bau import _ImplicitLoss, hypergradient, into_ball
from isthmus.training import Training, cross_entropy

pytestmark = pytest.mark.numeric

OPTIONS = Training(steps=80, lr=0.001, batch_size=16, precision="fp32")


def quadratic():
    """inner = d'Ad / 2 - d'Bw, minimal at A^-1 B w; outer = |d - c|^2 / 2 + w'd + |w|^2."""
    g = torch.Generator().manual_seed(0)
    root = torch.randn(4, 4, generator=g, dtype=torch.float64)
    a, b = (
        root @ root.T + torch.eye(4, dtype=torch.float64),
        torch.randn(4, 4, generator=g, dtype=torch.float64),
    )
    c, w = torch.randn(2, 4, generator=g, dtype=torch.float64)
    weights = w.requires_grad_()
    inner = lambda d: d @ a @ d / 2 - d @ (b @ weights)  # noqa: E731
    outer = lambda d, at=weights: (d - c).square().sum() / 2 + at @ d + at.square().sum()  # noqa: E731
    return a, b, weights, inner, outer


def test_the_hypergradient_is_that_of_brute_force():
    a, b, weights, inner, outer = quadratic()
    delta = torch.linalg.solve(a, b @ weights).detach()
    value, (found,) = hypergradient(
        inner, outer, delta, [weights], rate=1 / float(a.trace()), iterations=2000
    )
    assert torch.allclose(value, outer(delta))

    def through(w):
        return float(outer(torch.linalg.solve(a, b @ w), w))

    for i, unit in enumerate(1e-5 * torch.eye(4, dtype=torch.float64)):
        w = weights.detach()
        assert float(found[i]) == pytest.approx(
            (through(w + unit) - through(w - unit)) / 2e-5, rel=1e-5, abs=1e-7
        )


@pytest.mark.parametrize("iterations", [0, 1, 2, 5])
def test_its_iterations_are_the_terms_of_the_neumann_series(iterations):
    a, b, weights, inner, outer = quadratic()
    delta, rate = torch.ones(4, dtype=torch.float64), 0.05
    _, (found,) = hypergradient(inner, outer, delta, [weights], rate=rate, iterations=iterations)
    d = delta.clone().requires_grad_()
    of_delta, direct = torch.autograd.grad(outer(d), [d, weights])
    moved = torch.eye(4, dtype=torch.float64) - rate * a
    terms = [torch.linalg.matrix_power(moved, k) @ of_delta for k in range(iterations)]
    expected = direct + rate * b.T @ sum(terms, torch.zeros(4, dtype=torch.float64))
    assert torch.allclose(found, expected)


def test_a_maximizer_on_the_sphere_moves_along_the_sphere():
    """Brute force again: the farthest the ball goes along w, so delta* = r w / |w|, and outer = |d
    - c|^2 / 2.
    """
    w, c = torch.randn(2, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights, ball = w.requires_grad_(), partial(into_ball, radius=0.5)
    outer = lambda d: (d - c).square().sum() / 2  # noqa: E731
    delta = (0.5 * weights / weights.norm()).detach()
    _, (found,) = hypergradient(
        lambda d: -d @ weights, outer, delta, [weights], rate=0.1, iterations=500, projection=ball
    )
    (expected,) = torch.autograd.grad(outer(0.5 * weights / weights.norm()), weights)
    assert torch.allclose(found, expected)


def test_a_series_that_grows_is_broken_off():
    saddle = torch.diag(torch.tensor([-1.0, 2.0]))  # no minimum: each term would be twice the last
    weights = torch.ones(2, requires_grad=True)
    args = (lambda d: d @ saddle @ d / 2 - d @ weights, lambda d: d[0], torch.ones(2), [weights])
    few, many = (hypergradient(*args, rate=1.0, iterations=n)[1][0] for n in (1, 20))
    assert torch.equal(few, many)


def test_weights_that_the_loss_does_not_reach_get_no_gradient():
    used, idle = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    _, grads = hypergradient(
        lambda d: (d * used).square().sum(),
        lambda d: (d * used).sum(),
        torch.ones(2),
        [used, idle],
        rate=0.1,
        iterations=3,
    )
    assert (grads[1] == 0).all() and (grads[0] != 0).all()


@pytest.mark.parametrize("radius", [0.01, 0.18])
def test_the_perturbation_stays_in_its_ball_and_hurts(radius):
    net, images = network("batchnorm"), data()
    delta = IBAU(OPTIONS, radius).universal_perturbation(net, images, OPTIONS.replace(steps=10))
    assert delta.shape == (1, 3, 8, 8)
    assert float(delta.square().mean().sqrt()) <= radius * (1 + 1e-5)
    plain, hurt = (cross_entropy(net, images.x + shift, images.y) for shift in (0, delta))
    assert hurt > plain


def test_the_loss_has_the_perturbation_on_half_of_the_batch_and_carries_the_hypergradient():
    net, images = network("batchnorm"), data(10)
    delta = 0.1 * torch.randn(1, 3, 8, 8)
    value = _ImplicitLoss(delta, 9.0, 0)(net, images.x, images.y)
    x = torch.cat([images.x[:5] + delta, images.x[5:]])
    expected = cross_entropy(net, x, images.y)
    assert torch.allclose(value, expected)
    value.backward()
    for p, grad in zip(
        net.parameters(), torch.autograd.grad(expected, list(net.parameters())), strict=True
    ):
        assert torch.allclose(p.grad, grad, atol=1e-6)


def test_afterwards_the_worst_perturbation_hurts_less():
    net, images = network("batchnorm"), data(120)
    fit(
        net, images, steps=60, lr=0.1, batch_size=32, precision="fp32"
    )  # an untrained network has nothing to lose
    recalibrate(net, images)
    repaired = IBAU(OPTIONS.replace(steps=160, lr=0.005))(net, images)
    hurt = []
    for each in (net, repaired):
        delta = IBAU(OPTIONS).universal_perturbation(each, images, OPTIONS.replace(steps=10))
        hurt.append(cross_entropy(each, images.x + delta, images.y).item())
    assert hurt[1] < hurt[0]


def test_attention_has_a_second_derivative_here():
    assert isinstance(IBAU(OPTIONS)(copy.deepcopy(network("attention")), data()), nn.Module)
