"""Fixed points and their gradients, against dense matrices, other methods, unrolled autograd and
differences."""

import pytest
import torch
from support.refusals import refused
from torch import nn

from isthmus.models import (
    EquilibriumConv2d,
    EquilibriumLinear,
    Solver,
    equilibria,
    implicit_conv,
    implicit_mlp,
    unrolled,
)
from isthmus.models.fixed_point import (
    Dense,
    Embedded,
    equilibrium,
    iteration,
    relative_residual,
    sensitivity,
)
from isthmus.models.zoo.implicit import reused

FINE = Solver(tolerance=1e-13, iterations=5000, every=1)
GAMMAS = (-0.5, 0.0, 0.3, 0.95)


def scrambled(layer, seed=0, scale=1.0):
    """The layer in float64 with random parameters of all signs and sizes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(scale * torch.randn(p.shape, generator=generator))
    return layer.double().eval()


def layers(gamma=0.0, scale=1.0):
    return {
        "dense": scrambled(EquilibriumLinear(6, 7, gamma, FINE), scale=scale),
        "circular": scrambled(EquilibriumConv2d(2, 3, 3, "circular", gamma, FINE), scale=scale),
        "zeros": scrambled(EquilibriumConv2d(2, 3, 3, "zeros", gamma, FINE), scale=scale),
        "wide kernel": scrambled(EquilibriumConv2d(2, 2, 5, "zeros", gamma, FINE), scale=scale),
    }


def inputs_of(kind, n=4, seed=1):
    shape = (n, 6) if kind == "dense" else (n, 2, 5, 4)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def matrix_of(function, like):
    """The matrix of a linear function of states like this one."""
    size = like.numel()
    eye = torch.eye(size, dtype=like.dtype).view(size, *like.shape)
    return function(eye).reshape(size, size).T


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("kind", layers())
def test_the_matrix_measure_is_at_most_gamma_for_any_parameters(kind, gamma):
    for seed in range(5):
        layer = scrambled(layers(gamma)[kind], seed, scale=2.0)
        state = layer.inject(inputs_of(kind))[0]
        operator = layer.operator(*state.shape[1:])
        eta = operator.eta.expand_as(state).flatten()
        dense = matrix_of(operator, state)
        across = dense.abs() * eta[None] / eta[:, None]
        measure = (dense.diagonal() + across.sum(1) - across.diagonal()).amax()
        assert measure <= gamma + 1e-9
        assert abs(operator.measure() - measure) < 1e-9  # kernels do not wrap onto themselves here


@pytest.mark.parametrize("kind", layers())
def test_operators_agree_with_their_matrices(kind):
    layer = layers()[kind]
    state = layer.inject(inputs_of(kind))[0]
    operator = layer.operator(*state.shape[1:])
    dense = matrix_of(operator, state)
    close = {"rtol": 0, "atol": 1e-12}
    torch.testing.assert_close(matrix_of(operator.adjoint, state), dense.T, **close)
    diagonal = operator.diagonal.expand_as(state).flatten()
    torch.testing.assert_close(diagonal, dense.diagonal(), **close)
    torch.testing.assert_close(matrix_of(operator.absolute(), state), dense.abs(), **close)
    metzler = dense.abs().fill_diagonal_(0) + torch.diag(dense.diagonal())
    torch.testing.assert_close(matrix_of(operator.metzler(), state), metzler, **close)
    for spread in (operator.metzler(), operator.absolute()):
        pair = Embedded(operator, spread)
        wide = torch.cat([state[None], state[None] + 1])

        def at(function, pair_state):
            return function(pair_state).flatten()

        eye = torch.eye(wide.numel(), dtype=wide.dtype).view(-1, *wide.shape)
        whole = torch.stack([at(pair, column) for column in eye], 1)
        back = torch.stack([at(pair.adjoint, column) for column in eye], 1)
        torch.testing.assert_close(back, whole.T, **close)
        own = pair.diagonal.expand_as(state).flatten().repeat(2)
        torch.testing.assert_close(own, whole.diagonal(), **close)
        rest = torch.stack([at(pair.with_diagonal(0.0), column) for column in eye], 1)
        torch.testing.assert_close(rest, whole - torch.diag(whole.diagonal()), **close)


@pytest.mark.parametrize("method", ["direct", "averaged", "anderson"])
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("kind", layers())
def test_every_method_reaches_the_one_fixed_point_and_says_how(kind, gamma, method):
    layer = layers(gamma, scale=0.5)[kind]
    injected = layer.inject(inputs_of(kind))
    operator = layer.operator(*injected.shape[2:])
    start = torch.rand_like(injected)
    solver = Solver(tolerance=1e-11, iterations=20000, method=method)
    for begin in (None, start):
        z, solution = solver.solve(operator, injected, begin)
        assert solution.converged and solution.residual <= 1e-11
        assert relative_residual(iteration(operator, injected), z).amax() <= 1e-11
        exact, _ = FINE.solve(operator, injected)
        v = sensitivity(operator.metzler(), injected[:1])
        assert ((z - exact).abs() <= v * (1e-11 + 1e-12) * (1 + z.amax())).all()


def test_the_direct_step_is_never_slower_than_the_averaged_one():
    for seed in range(10):
        layer = scrambled(EquilibriumLinear(6, 30), seed)
        injected = layer.inject(inputs_of("dense"))
        counts = [
            Solver(1e-9, 10**5, method=method, every=1).solve(layer.operator(), injected)[1]
            for method in ("direct", "averaged")
        ]
        assert counts[0].iterations <= counts[1].iterations


def test_a_solution_that_was_not_reached_says_so():
    layer = scrambled(EquilibriumLinear(6, 7, solver=Solver(tolerance=1e-12, iterations=2)))
    layer(inputs_of("dense"))
    assert layer.solution.iterations == 2
    assert not layer.solution.converged and layer.solution.residual > 1e-12


def test_the_last_fixed_point_saves_iterations_and_changes_nothing():
    net = implicit_mlp(6, 7, 3)
    scrambled(net)
    x = torch.rand(5, 6, dtype=torch.float64)
    fresh = net(x)
    count = net.equilibrium.solution.iterations
    with reused(net):
        net(x)
        again = net(x)
        assert net.equilibrium.solution.iterations <= count
        assert net(x[:2]).shape == (2, 3)
    torch.testing.assert_close(again, fresh, rtol=1e-4, atol=1e-4)
    assert net.equilibrium.last is None


@pytest.mark.parametrize("kind", layers())
def test_the_implicit_gradient_is_that_of_differences_and_of_unrolled_autograd(kind):
    layer = layers(scale=0.5)[kind]
    x = inputs_of(kind, n=2).requires_grad_()
    weight = torch.randn_like(layer(x))
    asked = [x, *layer.parameters()]
    exact = torch.autograd.grad((weight * layer(x)).sum(), asked)
    with unrolled(layer, 400):
        rolled = torch.autograd.grad((weight * layer(x)).sum(), asked)
    for one, other in zip(exact, rolled, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)
    small = 1e-6
    for tensor, gradient in zip(asked, exact, strict=True):
        direction = torch.randn_like(tensor)
        values = []
        with torch.no_grad():
            for sign in (1, -1):
                tensor.add_(sign * small * direction)
                values.append((weight * layer(x)).sum())
                tensor.sub_(sign * small * direction)
        difference = (values[0] - values[1]) / (2 * small)
        torch.testing.assert_close(difference, (gradient * direction).sum(), rtol=1e-5, atol=1e-5)


def test_the_gradient_of_an_embedded_fixed_point_is_that_of_unrolled_autograd():
    layer = scrambled(EquilibriumLinear(6, 7), scale=0.5)
    low = inputs_of("dense").requires_grad_()
    operator = layer.operator()
    pair = Embedded(operator, operator.metzler())

    def injected():
        return torch.cat([layer.inject(low), layer.inject(low) + 0.3])

    weight = torch.randn(8, 7, dtype=torch.float64)
    asked = [low, layer.mixing, layer.log_weights]
    solution, _ = equilibrium(pair, injected(), FINE)
    exact = torch.autograd.grad((weight * solution).sum(), asked, retain_graph=True)
    step, z = iteration(pair, injected()), torch.zeros(8, 7, dtype=torch.float64)
    for _ in range(400):
        z = step(z)
    rolled = torch.autograd.grad((weight * z).sum(), asked)
    for one, other in zip(exact, rolled, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def test_second_derivatives_in_the_inputs_are_exact_and_in_the_weights_refused():
    net = scrambled(implicit_mlp(6, 7, 3), scale=0.7)
    net.equilibrium.solver = FINE
    x, y = torch.rand(8, 6, dtype=torch.float64), torch.arange(8) % 3

    def loss(x):
        return nn.functional.cross_entropy(net(x), y)

    refused(lambda: torch.autograd.functional.hessian(loss, x), "second derivatives")
    net.requires_grad_(False)
    exact = torch.autograd.functional.hessian(loss, x)
    with unrolled(net, 400):
        rolled = torch.autograd.functional.hessian(loss, x)
    torch.testing.assert_close(exact, rolled, rtol=1e-8, atol=1e-10)
    assert exact.abs().amax() > 1e-6


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: implicit_mlp(gamma=1.0), "gamma = 1.0"),
        (lambda: implicit_mlp(gamma=float("nan")), "gamma"),
        (lambda: implicit_conv(gamma=2.0), "gamma = 2.0"),
        (lambda: implicit_mlp(hidden=0), "hidden = 0"),
        (lambda: implicit_conv(size=3), "size / 4 = 0"),
        (lambda: EquilibriumConv2d(1, 2, 4), "odd size"),
        (lambda: EquilibriumConv2d(1, 2, padding="same"), "padding"),
        (lambda: Solver(tolerance=0.0), "tolerance"),
        (lambda: Solver(method="newton"), "newton"),
    ],
)
def test_what_cannot_be_is_refused(make, words):
    refused(make, words)


def test_the_equilibrium_layers_of_a_network_are_known_by_name():
    assert list(equilibria(implicit_conv())) == ["images", "equilibrium"]
    assert not equilibria(nn.Linear(2, 2))


def test_a_matrix_measure_by_hand():
    matrix = torch.tensor([[-2.0, 3.0], [1.0, 0.5]])
    assert Dense(matrix, torch.tensor([1.0, 0.5])).measure() == max(-2 + 1.5, 0.5 + 2.0)
