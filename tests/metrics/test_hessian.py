"""Input-Hessian against autograd's own Hessian, whatever the batch; and its cost."""

import pytest
import torch
import torch.nn.functional as F
from support.networks import ZOO, Function, data, network, pair
from support.refusals import refused
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from isthmus import Bezier
from isthmus.data import L1, L2, Linf
from isthmus.metrics import input_hessian, input_hessian_top
from isthmus.metrics.curvature.linearity import piecewise_linear
from isthmus.metrics.curvature.weights import weight_hessian_top
from isthmus.models import frozen, mlp, small_cnn

pytestmark = pytest.mark.numeric

LINEAR = {"linear", "batchnorm", "tied", "dropout", "frozen", "weightnorm", "hooked", "view"}
SMOOTH = {"layernorm", "groupnorm", "attention", "lstm"}


def images(n=5, seed=3):
    found = data(n, seed=seed)
    return found.floats().double(), found.y


def naive(net, x, y):
    """Each sample's Hessian by torch itself, (n, d, d)."""
    with sdpa_kernel(SDPBackend.MATH):
        found = [
            torch.autograd.functional.hessian(
                lambda z, i=i: F.cross_entropy(net(z[None]), y[i : i + 1]), x[i]
            )
            for i in range(len(x))
        ]
    return torch.stack([h.reshape(x[0].numel(), -1) for h in found])


def test_which_networks_are_piecewise_linear_is_read_off_the_pass():
    x = data(4).floats().requires_grad_()
    for kind in ZOO:
        net = network(kind)
        with frozen(net):
            assert piecewise_linear(net(x), x) == (kind in LINEAR), kind


TRICKS = {
    "a functional": (lambda self, x: self.out(F.gelu(x.flatten(1))), False),
    "a gate": (lambda self, x: self.out(x.flatten(1)) * self.gate(x.flatten(1)), False),
    "a norm": (
        lambda self, x: self.out(x.flatten(1) / x.flatten(1).norm(dim=1, keepdim=True)),
        False,
    ),
    "probabilities": (lambda self, x: self.out(x.flatten(1)).softmax(1), False),
    "clamp and abs": (lambda self, x: self.out(x.flatten(1).clamp(0.2, 0.8).abs() - 0.5), True),
    "maxout": (
        lambda self, x: torch.maximum(self.out(x.flatten(1)), self.gate(x.flatten(1))),
        True,
    ),
    "a weight made of weights": (
        lambda self, x: F.linear(x.flatten(1), self.out.weight * self.gate.weight),
        True,
    ),
}


@pytest.mark.parametrize("name", TRICKS)
def test_no_function_hides_from_it(name):
    function, linear = TRICKS[name]
    torch.manual_seed(0)
    net = Function(function, out=nn.Linear(192, 4), gate=nn.Linear(192, 4)).double()
    x, y = images(2)
    found = input_hessian(net, x, y, tolerance=1e-8, iterations=192)
    assert (found.form == "gram") == linear
    assert torch.allclose(
        found.top, torch.linalg.eigvalsh(naive(net, x, y))[:, -1], rtol=1e-6, atol=1e-10
    )


NETWORKS = {kind: (lambda kind=kind: network(kind)) for kind in sorted(LINEAR | SMOOTH)} | {
    "mlp": lambda: mlp(4, size=8, hidden=(24, 16)),
    "small cnn": lambda: small_cnn(4, width=4),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_it_is_the_hessian_that_autograd_has(kind):
    torch.manual_seed(0)
    net = NETWORKS[kind]().double().eval()
    x, y = images(2 if kind in SMOOTH else 3)
    values, vectors = torch.linalg.eigh(naive(net, x, y))
    found = input_hessian(net, x, y, tolerance=1e-7, iterations=192, vectors=True)
    assert found.form == ("lanczos" if kind in SMOOTH else "gram")
    assert torch.allclose(found.top, values[:, -1], rtol=1e-6, atol=1e-12)
    assert torch.allclose(
        found.bottom, values[:, 0], rtol=1e-6, atol=1e-6 * float(values.abs().max())
    )
    assert (found.residual <= 1e-7).all()
    x.requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        losses = F.cross_entropy(net(x), y, reduction="none")
        (g,) = torch.autograd.grad(losses.sum(), x)
    g, v = g.flatten(1), vectors[:, :, -1]
    assert torch.allclose(found.loss, losses)
    assert torch.allclose(found.gradients.flatten(1), g)
    assert torch.allclose(
        (found.vectors.flatten(1) * v).sum(1).abs(), torch.ones(len(x)).double(), atol=1e-4
    )
    assert torch.allclose(found.l1, g.abs().sum(1)) and torch.allclose(found.l2, g.norm(dim=1))
    assert torch.allclose(found.alignment, (g * v).sum(1).abs() / g.norm(dim=1), atol=1e-4)


@pytest.mark.parametrize("kind", ["batchnorm", "groupnorm"])
def test_neither_batch_nor_order_matters(kind):
    net, (x, y) = network(kind).double(), images(7)
    whole = input_hessian_top(net, x, y)
    for size in (1, 2, 3):
        assert torch.allclose(input_hessian_top(net, x, y, batch_size=size), whole, rtol=1e-9)
    order = torch.tensor([3, 0, 6, 2, 5, 1, 4])
    assert torch.allclose(input_hessian_top(net, x[order], y[order]), whole[order], rtol=1e-9)


def test_the_label_does_not_matter_where_the_network_is_piecewise_linear():
    net, (x, y) = network("batchnorm").double(), images()
    assert torch.allclose(
        input_hessian_top(net, x, y), input_hessian_top(net, x, (y + 1) % 4), rtol=1e-9
    )


@pytest.mark.parametrize("form", ["product", "lanczos"])
def test_products_agree_with_the_gram_matrix(form):
    net, (x, y) = network("batchnorm").double(), images()
    exact = input_hessian(net, x, y)
    found = input_hessian(net, x, y, form=form, tolerance=1e-8)
    assert torch.allclose(found.top, exact.top, rtol=1e-8) and torch.allclose(found.l1, exact.l1)
    assert torch.allclose(found.alignment, exact.alignment, atol=1e-6)


def test_many_classes_take_products():
    torch.manual_seed(0)
    net, (x, y) = mlp(120, size=8, hidden=(24,)).double(), images()
    found = input_hessian(net, x, y, tolerance=1e-8)
    assert found.form == "product"
    assert torch.allclose(found.top, input_hessian_top(net, x, y, form="gram"), rtol=1e-7)


def test_a_sure_network_loses_no_digits():
    """All but one probability near 1e-7: in single precision 1 - p would be wrong in its first
    digit.
    """
    torch.manual_seed(0)
    net, (x, y) = nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), images()
    with torch.no_grad():
        net[1].bias.copy_(torch.tensor([16.0, 0.0, 0.0, 0.0]))
    found = input_hessian_top(net, x.float(), y)
    true = torch.linalg.eigvalsh(naive(net.double(), x, y))[:, -1]
    assert (true < 1e-6).all() and torch.allclose(found, true, rtol=1e-4, atol=0)


def test_uint8_images_and_live_points_are_taken_and_nothing_is_left_behind():
    net, found = network("batchnorm"), data(5, dtype=torch.uint8)
    before = {name: t.clone() for name, t in net.state_dict().items()}
    net.train()
    top = input_hessian_top(net, found.x, found.y)
    assert torch.allclose(top, input_hessian_top(net, found.floats(), found.y), rtol=1e-5)
    assert all(torch.equal(before[name], t) for name, t in net.state_dict().items())
    assert net.training and all(p.grad is None and p.requires_grad for p in net.parameters())
    curve = Bezier(*pair("batchnorm"))
    live, exported = (
        input_hessian_top(each, found.x, found.y) for each in (curve.at(0.3), curve.export(0.3))
    )
    assert torch.allclose(live, exported, rtol=1e-4) and curve.bends.grad is None


def test_it_costs_one_backward_pass_less_than_there_are_classes(monkeypatch):
    net, (x, y), passes, grad = network("batchnorm"), images(), [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: passes.append(1) or grad(*a, **k))
    input_hessian(net, x.float(), y)
    assert len(passes) == 3


class Quadratic(nn.Module):
    """Two logits (q, 0) with log(1 + e^-q) the loss of class 0 quadratic in x up to third order;
    curved both ways.
    """

    def __init__(self, d=12):
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.slope = nn.Parameter(torch.randn(d, generator=g).double())
        half = torch.randn(d, d, generator=g).double() / d
        self.hessian = nn.Parameter(half + half.T)

    def quadratic(self, delta):
        return 1 + delta @ self.slope + ((delta @ self.hessian) * delta).sum(1) / 2

    def forward(self, x):
        loss = self.quadratic(x.flatten(1) - 0.5)
        return torch.stack([-torch.log(torch.expm1(loss)), torch.zeros_like(loss)], 1)


@pytest.mark.parametrize("ball", [L2(0.2), Linf(0.05)], ids=repr)
@pytest.mark.parametrize("definite", [True, False])
def test_the_sandwich_holds_for_an_exactly_quadratic_loss(ball, definite):
    net = Quadratic()
    if definite:
        with torch.no_grad():
            net.hessian.copy_(net.hessian @ net.hessian)
    x, y = torch.full((1, 1, 3, 4), 0.5, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    found = input_hessian(net, x, y, tolerance=1e-9)
    assert found.loss.item() == pytest.approx(1) and found.form == "lanczos"
    assert torch.allclose(found.top, torch.linalg.eigvalsh(net.hessian)[-1:]) and torch.allclose(
        found.bottom, torch.linalg.eigvalsh(net.hessian)[:1]
    )
    draws = ball.sample((4000, 12), torch.Generator().manual_seed(1)).double()
    draws = draws * (ball.eps / ball.norm(draws)).unsqueeze(1)  # on the sphere
    steepest = ball.eps * ball.steepest(net.slope[None])
    with torch.no_grad():
        best = torch.cat([net.quadratic(draws), net.quadratic(steepest)])
    lower, upper = found.bounds(ball)
    assert lower <= net.quadratic(steepest) + 1e-9 and best.max() <= upper + 1e-9
    if isinstance(ball, L2) and definite:
        c2 = found.alignment.square()
        assert torch.allclose(lower, found.loss + 0.2 * found.l2 + 0.02 * c2 * found.top)


@pytest.mark.parametrize("kind", ["linear", "batchnorm", "attention"])
def test_the_weights_top_eigenvalue_is_autograds(kind):
    torch.manual_seed(0)
    net = (
        nn.Sequential(nn.Conv2d(3, 2, 5, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 4))
        if kind == "batchnorm"
        else network(kind)
    ).double()
    x, y = images(6)
    names = [n for n, p in net.named_parameters() if p.requires_grad]
    if kind == "attention":
        net.requires_grad_(False)
        names = ["head.weight", "head.bias", "norm.weight"]
        for name in names:
            net.get_parameter(name).requires_grad_()
    flat = torch.cat([net.get_parameter(n).detach().reshape(-1) for n in names])

    def loss(vector):
        parts = vector.split([net.get_parameter(n).numel() for n in names])
        weights = {
            n: part.view_as(net.get_parameter(n)) for n, part in zip(names, parts, strict=True)
        }
        return F.cross_entropy(torch.func.functional_call(net, weights, (x,)), y)

    with sdpa_kernel(SDPBackend.MATH):
        true = float(torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, flat))[-1])
    for size in (None, 4):
        assert weight_hessian_top(net, x, y, tolerance=1e-6, batch_size=size) == pytest.approx(
            true, rel=1e-5
        )


def test_what_cannot_be_differentiated_or_asked_is_refused():
    net, (x, y) = network("batchnorm"), images()
    x = x.float()
    refused(lambda: input_hessian(net, x, y, form="power"), "'power'")
    refused(lambda: input_hessian(net, x, y[:2]), "2 labels")
    refused(lambda: input_hessian(net, x, y, tolerance=0.0), "tolerance = 0")
    refused(
        lambda: input_hessian(Function(lambda self, x: x.flatten(1)[:, :1]), x, y * 0), "1 logits"
    )
    refused(
        lambda: input_hessian(Function(lambda self, x: x.detach().flatten(1)[:, :4]), x, y),
        "not differentiable",
    )
    refused(lambda: input_hessian(net, x, y).bounds(L1(1.0)), "L2 or Linf")
    refused(lambda: weight_hessian_top(net.requires_grad_(False), x, y), "0 trainable")
