"""The laws that all certifiers share, over their table; and what each of them is for."""

import copy

import pytest
import torch
from support.refusals import refused
from torch import nn

from isthmus import L2, Accuracy, Bezier, Data, Linf, certification, evaluate_path, fit
from isthmus.attacks import PGD
from isthmus.certification import (
    CertifiedAccuracy,
    Interval,
    Lipschitz,
    MixedMonotone,
    Smoothing,
    certified,
    certifiers,
)
from isthmus.certification.lipschitz import lipschitz_constants
from isthmus.models import Solver, equilibria, implicit_conv, implicit_mlp, small_cnn, unrolled

pytestmark = pytest.mark.numeric

SMALL = Smoothing(sigma=0.25, samples=60, selection=20, alpha=0.01)
CASES = {**certifiers(), "smoothing": SMALL}
BOXES = {name: case for name, case in CASES.items() if name != "smoothing"}
EPS = (0.0, 1e-3, 0.02, 0.1, 1.0)


def samples(n=120, seed=0):
    """Images of 4x4 in three classes: which of three rows is bright."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    x = 0.6 * torch.rand(n, 1, 4, 4, generator=generator)
    x[torch.arange(n), 0, y] += 0.4
    return Data(x, y, 3)


def feed_forward():
    return nn.Sequential(
        *(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(48, 12), nn.ReLU(), nn.Linear(12, 3)),
    )


NETS = {
    "implicit": lambda: implicit_mlp(16, 12, 3),
    "implicit, gamma": lambda: implicit_mlp(16, 12, 3, gamma=0.5),
    "implicit convolution": lambda: implicit_conv(3, 1, 4, 2, 6),
    "feed-forward": feed_forward,
}


def trained(kind, loss=None, seed=0):
    torch.manual_seed(seed)
    net = NETS[kind]()
    options = {} if loss is None else {"loss": loss}
    options["optimizer"] = torch.optim.Adam
    fit(net, samples(), **options, steps=150, lr=0.01, seed=seed, batch_size=60, precision="fp32")
    net.zero_grad()
    return net


@pytest.fixture(scope="module")
def nets():
    return {kind: trained(kind) for kind in NETS}


def ball_for(name, eps):
    return L2(eps) if name == "smoothing" else Linf(eps)


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("name", CASES)
def test_every_certifier_gives_a_margin_a_sample_that_falls_with_eps(name, kind, nets):
    net, data = nets[kind].train(), samples(30)
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    last = None
    for eps in EPS:
        margin = CASES[name](net, data.x, data.y, ball_for(name, eps))
        assert margin.shape == (30,) and margin.dtype == torch.float64
        assert margin.device.type == "cpu" and not margin.requires_grad
        assert last is None or (margin <= last + 1e-12).all()
        last = margin
    again = CASES[name](net, data.x, data.y, ball_for(name, eps))
    assert torch.equal(margin, again)
    assert net.training and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    net.eval()


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("name", BOXES)
def test_at_eps_0_the_margin_is_the_networks_own(name, kind, nets):
    net, data = nets[kind], samples(30)
    with torch.no_grad():
        logits = net(data.x)
    others = logits.scatter(1, data.y[:, None], -torch.inf).amax(1)
    own = logits.gather(1, data.y[:, None]).squeeze(1) - others
    margin = BOXES[name](net, data.x, data.y, Linf(0.0))
    if not (margin == -torch.inf).all():  # intervals of a fixed point need not exist
        torch.testing.assert_close(margin.float(), own, rtol=1e-3, atol=5e-3)
        assert (margin <= own.double() + 1e-4).all()


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("name", BOXES)
def test_no_attack_goes_below_the_margin(name, kind, nets):
    net, data = nets[kind], samples(30, seed=1)
    x, y = data.x, data.y
    for eps in (0.01, 0.05, 0.2):
        margin = BOXES[name](net, x, y, Linf(eps))
        attack = PGD(Linf(eps), steps=15, restarts=2, returns="worst")
        moved = [attack(net, x, y)]
        with unrolled(net, 10):
            moved.append(attack(net, x, y))
        noise = torch.rand(40, *x.shape) * 2 - 1
        moved += [(x + eps * draw).clamp(0, 1) for draw in torch.cat([noise, noise.sign()])]
        for points in moved:
            with torch.no_grad():
                logits = net(points)
            others = logits.scatter(1, y[:, None], -torch.inf).amax(1)
            assert (logits.gather(1, y[:, None]).squeeze(1) - others >= margin - 1e-4).all()


@pytest.mark.parametrize("kind", NETS)
def test_the_relative_classifier_and_the_mixed_monotone_box_are_never_looser(kind, nets):
    data = samples(60)
    for eps in (1e-3, 0.02, 0.1):
        ask = (nets[kind], data.x, data.y, Linf(eps))
        relative = MixedMonotone()(*ask)
        plain = MixedMonotone(relative=False)(*ask)
        slack = 1e-4  # of the solver's residual, by which a box is inflated
        assert (relative >= plain - slack).all()
        assert (relative >= Interval()(*ask) - slack).all()
        assert (plain >= Interval(relative=False)(*ask) - slack).all()
        assert (relative >= Lipschitz()(*ask) - slack).all()
        if kind == "feed-forward":
            torch.testing.assert_close(relative, Interval()(*ask), rtol=0, atol=1e-12)
        else:
            assert (relative > plain).any()


def test_the_margin_of_a_small_network_beside_the_true_one():
    grid = torch.cartesian_prod(*[torch.linspace(-1, 1, 101)] * 2).double()
    worst = []
    for seed in range(6):
        torch.manual_seed(seed)
        net = implicit_mlp(2, 5, 3).double().eval()
        net.equilibrium.solver = Solver(1e-12, 10**4)
        x = torch.rand(1, 1, 1, 2, dtype=torch.float64)
        for eps in (1e-6, 0.01, 0.2):
            with torch.no_grad():
                logits = net((x.flatten() + eps * grid).clamp(0, 1))
            y = net(x).argmax(1)
            others = logits.scatter(1, y.expand(len(grid))[:, None], -torch.inf).amax(1)
            true = (logits[:, y].squeeze(1) - others).amin()
            bound = MixedMonotone()(net, x, y, Linf(eps))
            clean = MixedMonotone()(net, x, y, Linf(0.0))
            assert bound <= true + 1e-12
            if eps == 0.2:
                worst.append(float((clean - bound) / (clean - true)))
    assert max(worst) < 20  # how much faster the bound falls than the margin


def test_feed_forward_bounds_of_one_layer_are_exact():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    data = samples(20)
    with torch.no_grad():
        weight, bias = net[1].weight.double(), net[1].bias.double()
        margin = Interval()(net, data.x, data.y, Linf(0.05))
        worst = []
        for x, y in zip(data.x.flatten(1).double(), data.y, strict=True):
            low, high = (x - 0.05).clamp(0, 1), (x + 0.05).clamp(0, 1)
            rows = weight[y] - weight
            values = rows.clamp_min(0) @ low + rows.clamp_max(0) @ high + bias[y] - bias
            values[y] = torch.inf
            worst.append(values.amin())
    torch.testing.assert_close(margin, torch.stack(worst), rtol=0, atol=1e-5)


def test_lipschitz_constants_of_an_implicit_network_are_the_formula():
    net = implicit_mlp(16, 12, 3, gamma=0.25)
    layer, head = net.equilibrium, net.head
    nn.init.normal_(layer.log_weights)
    eta = torch.exp(-layer.log_weights).detach()
    injected = (layer.inject.weight.abs().sum(1) / eta).amax()
    rows = head.weight[:, None] - head.weight[None]
    wanted = (rows.abs() * eta).sum(2) * injected / (1 - 0.25)
    found = lipschitz_constants(net, torch.rand(1, 1, 4, 4))
    torch.testing.assert_close(found, wanted.detach().double(), rtol=1e-5, atol=1e-6)


def test_a_fixed_point_that_was_not_reached_certifies_nothing(nets):
    net, data = copy.deepcopy(nets["implicit"]), samples(20)
    assert (MixedMonotone()(net, data.x, data.y, Linf(1e-4)) > 0).any()
    net.equilibrium.solver = Solver(tolerance=1e-7, iterations=1)
    assert (MixedMonotone()(net, data.x, data.y, Linf(1e-4)) == -torch.inf).all()


def test_a_rough_residual_widens_the_box(nets):
    net, data = copy.deepcopy(nets["implicit"]), samples(20)
    fine = MixedMonotone()(net, data.x, data.y, Linf(0.01))
    net.equilibrium.solver = Solver(tolerance=0.05, every=1)
    rough = MixedMonotone()(net, data.x, data.y, Linf(0.01))
    assert (rough < fine).all() and torch.isfinite(rough).all()


class Noisy(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.head = nn.Linear(16, 3)
        self.size = size

    def forward(self, x):
        x = x.flatten(1)
        return self.head(x + self.size * torch.randn(x.shape))


def with_nan():
    net = implicit_mlp(16, 12, 3)
    net.equilibrium.mixing.data[0, 0] = torch.nan
    return net


X, Y = samples(6).x, samples(6).y
REFUSED = {
    "no equilibrium layers": (
        lambda: MixedMonotone()(small_cnn(3, 1, 2), X, Y, Linf(0.1)),
        "BatchN",
    ),
    "a linear network": (
        lambda: MixedMonotone()(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), X, Y, Linf(0.1)),
        "equilibrium",
    ),
    "NaN": (lambda: MixedMonotone()(with_nan(), X, Y, Linf(0.1)), "equilibrium.mixing"),
    "bfloat16": (lambda: Interval()(feed_forward().bfloat16(), X, Y, Linf(0.1)), "bfloat16"),
    "negative eps": (lambda: MixedMonotone()(implicit_mlp(16, 4, 3), X, Y, Linf(-0.1)), "eps"),
    "labels": (lambda: Interval()(feed_forward(), X, Y + 5, Linf(0.1)), "labels from 5 to 7"),
    "negative labels": (lambda: Interval()(feed_forward(), X, Y - 1, Linf(0.1)), "labels from -1"),
    "label count": (lambda: Interval()(feed_forward(), X, Y[:3], Linf(0.1)), "labels of shape"),
    "float labels": (lambda: Interval()(feed_forward(), X, Y.float(), Linf(0.1)), "float32"),
    "bytes": (lambda: Interval()(feed_forward(), X.byte(), Y, Linf(0.1)), "uint8"),
    "range": (lambda: Interval()(feed_forward(), 2 * X, Y, Linf(0.1)), "inputs from"),
    "l2": (lambda: Interval()(feed_forward(), X, Y, L2(0.1)), "Linf"),
    "l-inf": (lambda: SMALL(feed_forward(), X, Y, Linf(0.1)), "L2"),
    "noise": (lambda: Interval()(Noisy(1.0), X, Y, Linf(0.1)), "random"),
    "little noise": (lambda: Lipschitz()(Noisy(1e-9), X, Y, Linf(0.1)), "Smoothing"),
    "no bound": (
        lambda: Interval()(
            nn.Sequential(nn.Flatten(), nn.GELU()), X, X.new_zeros(6).long(), Linf(0.1)
        ),
        "gelu in 1 (GELU)",
    ),
    "no bound, lipschitz": (
        lambda: Lipschitz()(nn.Sequential(nn.Flatten(), nn.Softmax(1)), X, Y, Linf(0.1)),
        "softmax",
    ),
    "loss": (lambda: certified(Lipschitz(), Linf(0.1)), "Lipschitz"),
    "loss, weight": (lambda: certified(Interval(), Linf(0.1), 1.5), "weight = 1.5"),
    "loss, ramp": (lambda: certified(Interval(), Linf(0.1), ramp=(0.5, 0.2)), "ramp"),
    "loss, ball": (lambda: certified(Interval(), L2(0.1)), "Linf"),
    "sigma": (lambda: Smoothing(sigma=0.0), "sigma"),
    "alpha": (lambda: Smoothing(alpha=1.0), "alpha"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_in_one_line(name):
    call, words = REFUSED[name]
    refused(call, words)


def test_every_certifier_that_is_exported_is_in_the_table():
    exported = {getattr(certification, name) for name in certification.__all__}
    named = {kind for kind in exported if isinstance(kind, type) and callable(kind)}
    others = {certification.Certifier, certification.CertifiedAccuracy}
    assert named - others == {type(case) for case in certifiers().values()}


def test_autocast_changes_no_certificate_and_no_fixed_point(nets):
    data = samples(20)
    for net in nets.values():
        margin = Interval()(net, data.x, data.y, Linf(0.01))
        loss = certified(Interval(), Linf(0.01), 1.0)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(margin, Interval()(net, data.x, data.y, Linf(0.01)))
            layers = equilibria(net).values()
            if not layers:
                assert torch.isfinite(loss(net, data.x, data.y))
            net(data.x)
            assert all(layer.solution.converged for layer in layers)


def test_a_noisy_network_can_be_smoothed():
    torch.manual_seed(0)
    margin = SMALL(Noisy(0.01), X, Y, L2(0.0))
    assert margin.shape == (6,)


@pytest.mark.parametrize("kind", NETS)
def test_certified_is_at_most_empirical_and_at_most_clean_accuracy(kind, nets):
    data = samples(90, seed=2)
    for eps in (0.0, 0.02, 0.1):
        attacked = PGD(Linf(eps), steps=10)(nets[kind], data.x, data.y)
        empirical = Accuracy(Data(attacked, data.y, 3))(nets[kind])
        rate = CertifiedAccuracy(data, MixedMonotone(), Linf(eps))(nets[kind])
        assert rate <= empirical <= Accuracy(data)(nets[kind]) and rate.n == 90
    assert CertifiedAccuracy(data, MixedMonotone(), Linf(0.0))(nets[kind]) >= empirical - 0.02


@pytest.mark.parametrize("kind", NETS)
def test_training_for_the_certificate_raises_it(kind, nets):
    data, ball = samples(90, seed=2), Linf(0.1)
    certifier = MixedMonotone()
    net = trained(kind, certified(certifier, ball, 0.75, ramp=(0.1, 0.5)))
    before = CertifiedAccuracy(data, certifier, ball)(nets[kind])
    after = CertifiedAccuracy(data, certifier, ball)(net)
    assert after > before + 0.1


def test_certified_accuracy_is_asked_along_a_path_whose_every_point_is_well_posed():
    data = samples(60)
    ends = [trained("implicit", seed=seed) for seed in range(2)]
    curve = Bezier(*ends)
    metric = CertifiedAccuracy(data, MixedMonotone(), Linf(0.01))
    path = evaluate_path(
        curve, {"certified accuracy": metric}, (0.0, 0.3, 0.5, 1.0), recalibrate_on=data
    )
    values = path.values["certified accuracy"]
    assert values[0] == metric(ends[0]) and values[-1] == metric(ends[1])
    for t in (0.0, 0.3, 0.7, 1.0):
        assert curve.export(t).equilibrium.operator().measure() <= 1e-5
