"""Bounds of a network's values: the example of the paper, samples and corners inside every box, and
refusals."""

from fractions import Fraction
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from support.networks import AROUND, ZOO, Around, network
from support.refusals import refused
from torch import nn

from isthmus.models import EquilibriumConv2d, EquilibriumLinear, Solver, implicit_conv, small_cnn
from isthmus.models.bounds.bound import NoBound
from isthmus.models.bounds.box import Box
from isthmus.models.bounds.rules import bounded
from isthmus.models.bounds.spread import Spread
from isthmus.models.fixed_point import Dense, equilibrium

pytestmark = pytest.mark.numeric


class Planar(nn.Module):
    """The two-dimensional example of Jafarpour et al., L4DC 2022."""

    def __init__(self, inner=((-0.25, -0.25), (0.75, -0.25))):
        super().__init__()
        self.register_buffer("inner", torch.tensor(inner, dtype=torch.float64))
        self.register_buffer("outer", torch.tensor([[0.5, 1.0], [1.0, 0.5]]))

    def forward(self, x):
        injected = F.linear(x, self.outer.to(x.dtype))
        operator = Dense(self.inner, torch.ones(2, dtype=torch.float64))
        solver = Solver(1e-10)
        if isinstance(injected, Box | Spread):
            return injected.fixed_point(operator, solver, solver)
        return equilibrium(operator, injected, solver)[0]


def planar_box(mixed):
    ends = torch.tensor([[0.0, 1.0], [1 / 3, 2.0]], dtype=torch.float64)
    return Box(ends[:1], ends[1:], mixed, outward=True)


@pytest.mark.parametrize(
    ("mixed", "lower", "upper"),
    [
        (True, (0.3939, 0.6364), (1.6061, 2.0303)),
        (False, (0.0, 0.0), (2.1667, 2.9583)),  # the paper prints another one, of a damped map
    ],
)
def test_the_box_of_the_papers_example(mixed, lower, upper):
    box = bounded(Planar(), planar_box(mixed))
    assert [round(value, 4) for value in box.lower[0].tolist()] == list(lower)
    assert [round(value, 4) for value in box.upper[0].tolist()] == list(upper)


def test_the_lipschitz_constant_of_the_papers_example():
    reach = bounded(Planar(), Spread(torch.ones(1, 2, dtype=torch.float64))).reach
    torch.testing.assert_close(reach, torch.full_like(reach, 3.0), rtol=1e-7, atol=0)


def test_a_fixed_point_that_need_not_exist_has_no_bound():
    net = Planar(((-2.0, 2.0), (2.0, -2.0)))
    assert Dense(net.inner, torch.ones(2).double()).measure() == 0
    bounded(net, planar_box(True))
    with pytest.raises(NoBound):
        bounded(net, planar_box(False))
    for mixed in (True, False):
        with pytest.raises(NoBound):
            bounded(Planar(((2.0, 0.0), (0.0, 0.0))), planar_box(mixed))


class Branches(nn.Module):
    """Sums, differences, scalings, slices, concatenation and padding of one thing and another."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(3, 4, 3, padding=1)
        self.two = nn.Conv2d(3, 4, 3, padding=1, groups=1, stride=1)
        self.out = nn.Linear(4 * 2 * 9, 4)
        self.constant = nn.Parameter(torch.randn(4, 1, 1))

    def forward(self, x):
        a, b = self.one(x).relu(), torch.relu_(self.two(x))
        c = 2 - (a - 0.5 * b) / self.constant.exp() + self.constant
        d = torch.cat([c, -b], 1).flip(1) * torch.ones(8, 1, 1)
        d = F.pad(d, (1, 1, 1, 1), value=0.3)[:, :, :9, :9]
        pooled = (
            F.avg_pool2d(F.max_pool2d(d, 2, padding=1), 2, 1, 0) + d.mean((2, 3))[:, :, None, None]
        )
        pooled = F.adaptive_max_pool2d(pooled, 3)
        pooled += 1
        return self.out(pooled.view(x.size(0), -1)).clamp(-3, 3)


def awkward():
    """Networks of every layer that has a rule, images (n, 3, 8, 8) to logits."""
    head = nn.Linear(3 * 16, 4)
    return {
        "linear": ZOO["linear"],
        "batchnorm": ZOO["batchnorm"],
        "dropout": ZOO["dropout"],
        "frozen": ZOO["frozen"],
        "weightnorm": ZOO["weightnorm"],
        "hooked": ZOO["hooked"],
        "view": ZOO["view"],
        "small_cnn": lambda: small_cnn(4, width=4),
        "branches": Branches,
        "implicit": lambda: implicit_conv(4, 3, 8, 3, 6),
        "implicit, zeros": lambda: implicit_conv(4, 3, 8, 3, 6, "zeros", gamma=0.5),
        "activations": lambda: nn.Sequential(
            *(nn.Conv2d(3, 3, 3, 2, 1, padding_mode="circular"), nn.LeakyReLU(0.2), nn.ELU()),
            *(nn.Sigmoid(), nn.Softplus(), nn.Tanh(), nn.Hardtanh(-0.5, 0.9), nn.PReLU()),
            *(nn.ReLU6(), nn.SELU(), nn.Flatten(), nn.BatchNorm1d(48), head),
        ),
    }


def made(kind, seed=0):
    torch.manual_seed(seed)
    net = awkward()[kind]()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p), alpha=0.1)
        for _ in range(3):
            net.train()(torch.rand(16, 3, 8, 8))
    return net.eval()


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("kind", awkward())
def test_every_sampled_output_lies_in_its_box(kind, mixed):
    net = made(kind)
    for part in net.modules():
        if isinstance(part, nn.PReLU):
            part.weight.data.abs_()
    x = torch.rand(2, 3, 8, 8)
    for eps in (0.0, 0.003, 0.1):
        try:
            box = bounded(net, Box.sound(x, eps, mixed=mixed))
        except NoBound:
            assert not mixed
            return
        assert box.lower.dtype == torch.float64 and (box.lower <= box.upper).all()
        assert not eps or (box.lower < box.upper).all()
        for seed in range(3):
            torch.manual_seed(seed)
            noise = torch.rand(1700, 3, 8, 8) * 2 - 1
            noise = noise.sign() if seed else noise
            for i in range(2):
                with torch.no_grad():
                    out = net((x[i] + eps * noise).clamp(0, 1))
                assert (out >= box.lower[i] - 2e-5).all() and (out <= box.upper[i] + 2e-5).all()


@pytest.mark.parametrize("kind", awkward())
def test_the_box_of_a_point_is_the_output(kind):
    net = made(kind)
    for part in net.modules():
        if isinstance(part, nn.PReLU):
            part.weight.data.abs_()
    x = torch.rand(3, 3, 8, 8)
    box = bounded(net, Box.sound(x, 0.0))
    with torch.no_grad():
        torch.testing.assert_close(box.middle, net(x).double(), rtol=1e-4, atol=2e-4)
    assert (box.upper - box.lower).amax() < 1e-2
    rough = bounded(net, Box.around(x, 0.01))
    sound = bounded(net, Box.sound(x, 0.01))
    wide = (sound.upper - sound.lower).amax()
    for one, other in ((rough.lower, sound.lower), (rough.upper, sound.upper)):
        assert (one.double() - other).abs().amax() < 0.05 * wide
    parameters = [p for p in net.parameters() if p.requires_grad]
    grads = torch.autograd.grad(
        rough.upper.sum() - rough.lower.sum(), parameters, allow_unused=True
    )
    assert any(g is not None and g.abs().amax() > 0 for g in grads)


@pytest.mark.parametrize("kind", ["dense", "circular", "zeros"])
def test_all_corners_and_many_points_lie_in_the_box_of_an_equilibrium_layer(kind):
    for seed in range(4):
        torch.manual_seed(seed)
        layer = {
            "dense": lambda: EquilibriumLinear(8, 5),
            "circular": lambda: EquilibriumConv2d(2, 2),
            "zeros": lambda: EquilibriumConv2d(2, 2, padding="zeros"),
        }[kind]()
        for p in layer.parameters():
            p.data.normal_()
        layer.double().eval().solver = Solver(1e-12, 10**4)
        center = torch.rand(1, 8, dtype=torch.float64)
        signs = torch.tensor(list(product([-1.0, 1.0], repeat=8)), dtype=torch.float64)
        points = torch.cat([signs, 2 * torch.rand(10_000, 8, dtype=torch.float64) - 1])
        shape = (-1, 8) if kind == "dense" else (-1, 2, 2, 2)
        for eps in (1e-4, 0.05, 0.5):
            box = bounded(layer, Box.sound(center.view(shape), eps))
            with torch.no_grad():
                z = layer((center + eps * points).clamp(0, 1).view(shape))
            assert (z >= box.lower - 1e-10).all() and (z <= box.upper + 1e-10).all()
            inside = (z.amax(0) - z.amin(0)) / (box.upper - box.lower)[0]
            assert inside.amax() <= 1 + 1e-9


def test_the_box_of_a_small_network_beside_its_true_range():
    grid = torch.cartesian_prod(*[torch.linspace(-1, 1, 201, dtype=torch.float64)] * 2)
    center = torch.full((1, 2), 0.5, dtype=torch.float64)
    for seed in range(8):
        torch.manual_seed(seed)
        net = nn.Sequential(EquilibriumLinear(2, 4), nn.Linear(4, 3)).double().eval()
        net[0].solver = Solver(1e-12, 10**4)
        box = bounded(net, Box.sound(center, 0.3))
        with torch.no_grad():
            out = net(center + 0.3 * grid)
        ratio = (box.upper - box.lower)[0] / (out.amax(0) - out.amin(0))
        assert ratio.amin() >= 1 and ratio.amax() < 20
        linear = nn.Linear(2, 3).double()
        tight = bounded(linear, Box.sound(center, 0.3))
        width = linear(center + 0.3 * grid).aminmax(dim=0)
        torch.testing.assert_close(tight.lower[0], width.min, rtol=0, atol=5e-7)
        torch.testing.assert_close(tight.upper[0], width.max, rtol=0, atol=5e-7)


def test_the_box_of_a_badly_scaled_layer_holds_its_exact_range():
    """In rational arithmetic: rounding goes outwards, where terms of 1e8 cancel too."""
    for seed in range(5):
        torch.manual_seed(seed)
        layer = nn.Linear(40, 3)
        layer.weight.data *= 10 ** torch.randint(-8, 9, (3, 40)).float()
        layer.weight.data[:, 20:] = -layer.weight.data[:, :20]
        x = torch.rand(1, 20).repeat(1, 2)
        for eps in (0.0, 1e-7, 0.1):
            inside = Box.sound(x, eps)
            box = bounded(layer, inside)
            low = [Fraction(v) for v in inside.lower[0].tolist()]
            high = [Fraction(v) for v in inside.upper[0].tolist()]
            for row in range(3):
                weights = [Fraction(v) for v in layer.weight[row].tolist()]
                bias = Fraction(layer.bias[row].item())
                ends = list(zip(weights, low, high, strict=True))
                least = bias + sum(w * (a if w > 0 else b) for w, a, b in ends)
                most = bias + sum(w * (b if w > 0 else a) for w, a, b in ends)
                assert Fraction(box.lower[0, row].item()) <= least
                assert Fraction(box.upper[0, row].item()) >= most


def test_a_float32_layer_of_uneven_weights_is_solved_and_bounded_closely():
    """As training for a certificate makes it: rows of A up to thirty, eta over two decades."""
    for seed in range(3):
        torch.manual_seed(seed)
        layer = EquilibriumLinear(20, 60).eval()
        layer.mixing.data.mul_(6)
        layer.log_weights.data.normal_().mul_(1.5)
        x = torch.rand(50, 20)
        z = layer(x)
        assert layer.solution.converged and layer.solution.iterations < 200
        box = bounded(layer, Box.sound(x, 0.0))
        assert (z >= box.lower).all() and (z <= box.upper).all()
        width = (box.upper - box.lower).detach() / (1 + z.detach().amax())
        assert width.amax() < 0.02


class Odd(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.block = nn.Sequential(nn.ReLU(), Named(function))

    def forward(self, x):
        return self.block(self.first(x.flatten(1)))


class Named(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: x.softmax(1), "softmax"),
        (lambda x: F.gelu(x), "gelu"),
        (lambda x: x * x, "mul of two bounds"),
        (lambda x: x if x.sum() > 0 else -x, "sum"),
        (lambda x: x if x else -x, "branch"),
        (lambda x: F.layer_norm(x, (4,)), "layer_norm"),
        (lambda x: F.dropout(x, 0.5, True), "dropout in train mode"),
        (lambda x: F.batch_norm(x, None, None, training=True), "batch_norm"),
        (lambda x: x.bfloat16(), "bfloat16"),
        (lambda x: x.to(dtype=torch.half), "a cast to torch.float16"),
        (lambda x: x.mean(), "mean over the samples"),
        (lambda x: torch.ones(4, 4) @ x, "matmul"),
        (lambda x: F.leaky_relu(x, -0.5), "leaky_relu"),
        (lambda x: 1 / x, "division"),
        (lambda x: torch.from_numpy(x.numpy()), "numpy"),
        (lambda x: torch.where(x > 0, x, 0.0), "comparison"),
        (lambda x: (x == 1).float(), "comparison"),
        (lambda x: x.view(-1, 2, 2).relu_(), "in place"),
        (lambda x: torch.ones(4).add_(x), "in place"),
        (lambda x: x.view(-1, 2, 2).add_(1) and x, "in place"),
    ],
)
def test_an_operation_without_a_bound_is_named_with_its_place(function, name):
    box = Box.sound(torch.rand(2, 1, 2, 2), 0.1)
    message = refused(lambda: bounded(Odd(function), box), "block.1")
    assert name in message


def test_a_network_that_ignores_its_input_is_refused():
    class Blind(nn.Module):
        def forward(self, x):
            return torch.zeros(2, 3)

    refused(lambda: bounded(Blind(), Box.sound(torch.rand(2, 1, 2, 2), 0.1)), "Tensor")


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
def test_bounds_are_those_of_the_logits_in_what_a_network_returns(around):
    body = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).double()
    box = Box.sound(torch.rand(2, 1, 2, 2), 0.1)
    found, expected = bounded(Around(body, around), box), bounded(body, box)
    assert torch.equal(found.lower, expected.lower)
    assert torch.equal(found.upper, expected.upper)


def test_what_is_done_in_place_is_seen_by_who_holds_the_value():
    class InPlace(nn.Module):
        def forward(self, x):
            F.relu(x, inplace=True)
            x.clamp_(0.25, 0.75)
            return x

    x = torch.tensor([[-1.0, 0.5]], dtype=torch.float64)
    box = bounded(InPlace(), Box(x - 0.1, x + 0.1, outward=True))
    assert box.lower.tolist()[0] == pytest.approx([0.25, 0.4])
    assert box.upper.tolist()[0] == pytest.approx([0.25, 0.6])


def test_hooks_and_modes_are_put_back():
    net = network("batchnorm").train()
    bounded(net, Box.sound(torch.rand(2, 3, 8, 8), 0.1))
    assert net.training and not any(part._forward_pre_hooks for part in net.modules())
