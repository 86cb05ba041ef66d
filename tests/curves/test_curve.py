"""Laws of curves, over every network of the zoo."""

import copy
import os
import subprocess
import sys
from itertools import pairwise
from math import comb
from pathlib import Path

import pytest
import torch
from support.networks import ZOO, data, linear, network, pair
from torch import nn

import isthmus.curves
from isthmus import BadInput, Bezier, Curve, PolyChain, expected_over_t, fit
from isthmus.compression import PostTraining, quantize
from isthmus.curves import Plane, combine
from isthmus.training import cross_entropy

pytestmark = pytest.mark.numeric

KINDS, BENDS = [Bezier, PolyChain], [0, 1, 2, 5]
every_network = pytest.mark.parametrize("kind", ZOO)
every_curve = pytest.mark.parametrize(
    ("curve_class", "bends"), [(c, b) for c in KINDS for b in BENDS]
)
TS = torch.linspace(0, 1, 31, dtype=torch.float64).tolist()


def tensors(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: t.detach() for name, t in [*net.named_parameters(), *net.named_buffers()]}


def equal(a: nn.Module, b: nn.Module) -> bool:
    first, second = tensors(a), tensors(b)
    return list(first) == list(second) and all(
        first[n].dtype == second[n].dtype and torch.equal(first[n], second[n]) for n in first
    )


def scrambled(curve: Curve, seed: int = 0) -> Curve:
    """The curve with its bends off the straight line."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        curve.bends += 0.1 * torch.randn(curve.bends.shape, generator=g)
    return curve


@every_network
@pytest.mark.parametrize("curve_class", KINDS)
def test_the_ends_of_a_curve_are_its_endpoints_to_the_bit(kind, curve_class):
    ends, x = pair(kind), data(16).x
    before = [copy.deepcopy(tensors(end)) for end in ends]
    curve = scrambled(curve_class(*ends, bends=2))
    fit(
        curve,
        data(16),
        expected_over_t(cross_entropy, 0.01),
        steps=3,
        lr=0.01,
        batch_size=8,
        device="cpu",
    )
    for t, end, was in zip((0.0, 1.0), ends, before, strict=True):
        assert all(torch.equal(value, was[name]) for name, value in tensors(end).items())
        assert all(p.grad is None for p in end.parameters())
        point = curve.export(t)
        assert equal(point, end)
        assert torch.equal(point(x), end(x))
        assert torch.equal(curve.at(t)(x), end(x))


@every_network
def test_every_network_connects_and_comes_back_as_itself(kind):
    start, end = pair(kind)
    curve = Bezier(start, end)
    fit(
        curve,
        data(16),
        expected_over_t(cross_entropy),
        steps=2,
        lr=0.01,
        batch_size=8,
        device="cpu",
    )
    point = curve.export(0.5)
    assert type(point) is type(start)
    assert not point.training
    assert list(point.state_dict()) == list(start.state_dict())
    fresh = ZOO[kind]()
    fresh.load_state_dict(point.state_dict())
    same = {n: p.requires_grad for n, p in start.named_parameters()}
    assert {n: p.requires_grad for n, p in point.named_parameters()} == same
    assert torch.allclose(curve.eval().at(0.5)(data().x), point(data().x), atol=1e-5)


def test_tied_weights_stay_tied_and_count_once():
    start, end = pair("tied")
    curve = Bezier(start, end)
    point = curve.export(0.3)
    assert point.mirror.weight is point.up.weight
    assert point.first is point.second
    assert curve.bends.numel() == sum(p.numel() for p in start.parameters())
    loose = network("tied", 2)
    loose.mirror.weight = nn.Parameter(loose.up.weight.detach().clone())
    with pytest.raises(BadInput, match=r"mirror\.weight"):
        Bezier(start, loose)


def test_frozen_parameters_get_no_bend_and_move_along_the_segment():
    start, end = pair("frozen")
    curve = scrambled(Bezier(start, end, bends=2))
    assert curve.bends.shape[1] == sum(p.numel() for p in start.parameters() if p.requires_grad)
    assert torch.equal(
        curve.weights(0.25)["0.weight"], torch.lerp(start[0].weight, end[0].weight, 0.25)
    )
    shared = copy.deepcopy(end)
    shared[0].load_state_dict(start[0].state_dict())
    for t in (0.1, 0.5, 0.7):
        assert torch.equal(Bezier(start, shared).export(t)[0].weight, start[0].weight)


def test_what_cannot_be_combined_is_that_of_the_nearer_end():
    start, end = pair("mixed")
    curve = Bezier(start, end)
    for t, nearer in ((0.0, start), (0.4, start), (0.6, end), (1.0, end)):
        point = curve.export(t)
        assert torch.equal(point.order, nearer.order)
        assert torch.equal(point.shift, nearer.shift)
        assert torch.equal(point.scale, nearer.scale)


@every_curve
@pytest.mark.parametrize("t", TS)
def test_coefficients_are_a_partition_of_one(curve_class, bends, t):
    c = curve_class(linear(), linear(), bends).coefficients(t)
    assert c.shape == (bends + 2,)
    assert c.dtype == torch.float64
    assert (c >= 0).all()
    assert c.sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("t", TS)
def test_coefficients_equal_the_textbook(t):
    net = linear()
    one = Bezier(net, net, 1).coefficients(t).tolist()
    assert one == pytest.approx([(1 - t) ** 2, 2 * t * (1 - t), t**2])
    for bends in BENDS:
        k = bends + 1
        assert Bezier(net, net, bends).coefficients(t).tolist() == pytest.approx(
            [comb(k, i) * t**i * (1 - t) ** (k - i) for i in range(k + 1)]
        )
        assert PolyChain(net, net, bends).coefficients(t).tolist() == pytest.approx(
            [max(0.0, 1 - abs(t * k - i)) for i in range(k + 1)]
        )


@every_curve
def test_a_curve_begins_as_the_straight_segment_with_distinct_bends_in_order(curve_class, bends):
    start, end = pair("layernorm")
    curve, segment = curve_class(start, end, bends), Bezier(start, end, bends=0)
    for t in (0.0, 0.2, 0.5, 0.9, 1.0):
        for name, value in curve.weights(t).items():
            assert torch.allclose(value, segment.weights(t)[name], atol=1e-6)
    away = [(bend - curve.ends[0]).norm().item() for bend in curve.bends.detach()]
    apart = (curve.ends[1] - curve.ends[0]).norm().item()
    assert away == pytest.approx([apart * (j + 1) / (bends + 1) for j in range(bends)], rel=1e-4)
    assert curve.bends.is_contiguous()


@every_network
@pytest.mark.parametrize("curve_class", KINDS)
def test_the_gradient_of_a_bend_is_its_coefficient_times_the_gradient_at_the_point(
    kind, curve_class
):
    curve, batch = scrambled(curve_class(*pair(kind), bends=2)).eval(), data(8)
    for t in (0.15, 0.5, 0.8):
        curve.bends.grad = None
        cross_entropy(curve.at(t), batch.x, batch.y).backward()
        net = curve.export(t)
        cross_entropy(net, batch.x, batch.y).backward()
        there = [p.grad for p in net.parameters() if p.requires_grad]
        flat = torch.cat([g.reshape(-1).to(curve.bends.dtype) for g in there if g is not None])
        used = torch.cat(
            [
                torch.full((p.numel(),), p.grad is not None)
                for p in net.parameters()
                if p.requires_grad
            ]
        )
        for c, grad in zip(curve.coefficients(t)[1:-1].tolist(), curve.bends.grad, strict=True):
            assert torch.allclose(grad[used], c * flat, atol=1e-6, rtol=1e-3)
            assert not grad[~used].any()


@pytest.mark.parametrize("kind", ["batchnorm", "attention", "tied"])
def test_the_gradient_of_a_bend_agrees_with_finite_differences(kind):
    start, end = (net.double() for net in pair(kind))
    curve, batch = scrambled(Bezier(start, end, bends=2)).eval(), data(8, dtype=torch.float64)
    loss = expected_over_t(cross_entropy, weight_decay=0.1, low=0.35, high=0.35)
    loss(curve, batch.x, batch.y).backward()
    g, h = torch.Generator().manual_seed(3), 1e-6
    for _ in range(3):
        along = torch.randn(curve.bends.shape, generator=g, dtype=torch.float64)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                moved = copy.deepcopy(curve)
                moved.bends += sign * h * along
                values.append(loss(moved, batch.x, batch.y).item())
        expected = (curve.bends.grad * along).sum().item()
        assert (values[0] - values[1]) / (2 * h) == pytest.approx(expected, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_weight_decay_acts_on_the_point_and_reaches_only_the_bends(t):
    curve = scrambled(Bezier(*pair("batchnorm"), bends=2))
    nothing = lambda model, x, y: torch.zeros(())  # noqa: E731
    value = expected_over_t(nothing, weight_decay=0.2, low=t, high=t)(
        curve, *[data(4).x, data(4).y]
    )
    theta = torch.cat([w.reshape(-1) for w in curve.weights(t).values()]).detach()
    assert value.item() == pytest.approx(0.1 * theta.square().sum().item(), rel=1e-5)
    value.backward()
    for c, grad in zip(curve.coefficients(t)[1:-1].tolist(), curve.bends.grad, strict=True):
        assert torch.allclose(grad, 0.2 * c * theta, atol=1e-6)
    assert [name for name, _ in curve.named_parameters()] == ["bends"]
    assert not curve.ends.requires_grad


@pytest.mark.parametrize("bends", [1, 3])
@pytest.mark.parametrize("asked", ["weights", "theta", "norm", "all"])
def test_a_point_has_the_first_and_second_derivatives_of_the_sum_that_it_is(bends, asked):
    """A point's gradients are written out by hand; its naive twin leaves them to autograd."""
    curve = scrambled(Bezier(*(net.double() for net in pair("batchnorm")), bends=bends))
    c = curve.coefficients(0.3)
    naive = c[0] * curve.ends[0] + c[-1] * curve.ends[1] + (c[1:-1, None] * curve.bends).sum(0)
    point = curve.at(0.3)
    given = torch.cat([w.reshape(-1) for w in point.weights.values()])
    assert torch.allclose(point.theta, naive)

    def value(weights, theta, norm):
        parts = {"weights": (weights[40:] ** 3).sum(), "theta": (theta**3).sum(), "norm": norm**2}
        return sum(parts.values()) if asked == "all" else parts[asked]

    def derivatives(value):
        (first,) = torch.autograd.grad(value, curve.bends, retain_graph=True)
        (traced,) = torch.autograd.grad(value, curve.bends, create_graph=True)
        return first, traced, *torch.autograd.grad((traced**2).sum(), curve.bends)

    found = derivatives(value(given, point.theta, point.squared_norm))
    wanted = derivatives(value(naive, naive, naive.dot(naive)))
    for one, other in zip(found, wanted, strict=True):
        assert other.any()
        assert torch.allclose(one, other, rtol=1e-9)


def test_the_weights_of_a_point_keep_their_precision_inside_autocast():
    curve = scrambled(Bezier(*pair("batchnorm"), bends=2))
    outside = curve.weights(0.3)
    with torch.autocast("cpu", torch.bfloat16):
        inside = curve.weights(0.3)
    assert all(torch.equal(outside[name], inside[name]) for name in outside)


def test_one_t_is_drawn_per_call_and_shared_by_the_attack_and_the_loss():
    seen = []

    def attacked(model, x, y):
        x = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(cross_entropy(model, x, y), x)
        adversarial = (x + 0.01 * grad.sign()).clamp(0, 1).detach()
        seen.append(model.theta)
        value = cross_entropy(model, adversarial, y)
        seen.append(model.theta)
        return value

    curve, batch = Bezier(*pair("batchnorm")), data(8)
    fit(curve, batch, expected_over_t(attacked, 0.1), steps=12, lr=0.01, batch_size=4, device="cpu")
    assert len(seen) == 24
    assert all(a is b for a, b in zip(seen[::2], seen[1::2], strict=True))
    assert len({theta.sum().item() for theta in seen}) == 12


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.2, 0.4), (0.5, 0.5)])
def test_t_is_uniform_on_its_range(low, high):
    torch.manual_seed(0)
    drawn = []

    class Recorded(Bezier):
        def coefficients(self, t):
            drawn.append(float(t))
            return super().coefficients(t)

    curve, loss = (
        Recorded(linear(), linear()),
        expected_over_t(lambda m, x, y: m.theta.sum(), low=low, high=high),
    )
    with torch.no_grad():
        for _ in range(1000):
            loss(curve, None, None)
    assert min(drawn) >= low
    assert max(drawn) <= high
    assert torch.tensor(drawn).mean().item() == pytest.approx(
        (low + high) / 2, abs=0.04 * (high - low) + 1e-6
    )


@pytest.mark.parametrize("curve_class", KINDS)
@pytest.mark.parametrize("kind", ["frozen", "mixed", "tied"])
def test_lengths_are_those_of_the_exported_networks(kind, curve_class):
    curve = scrambled(curve_class(*pair(kind), bends=2))

    def flat(t):
        return torch.cat([w.detach().reshape(-1).double() for w in curve.weights(t).values()])

    ts = [i / 50 for i in range(51)]
    naive = sum((flat(b) - flat(a)).norm().item() for a, b in pairwise(ts))
    assert curve.arc_length(51) == pytest.approx(naive, rel=1e-2)
    assert curve.distance(0.3) == pytest.approx((flat(0.3) - flat(0.0)).norm().item(), rel=1e-2)
    assert curve.distance(0.0) == 0
    assert curve.arc_length() >= curve.distance(1.0)


def test_an_exported_network_stands_on_its_own():
    start, end = pair("batchnorm")
    curve = scrambled(Bezier(start, end))
    point = curve.export(0.0)
    with torch.no_grad():
        for tensor in tensors(point).values():
            tensor.zero_()
    assert equal(curve.export(0.0), start)


def test_a_curve_takes_the_mode_of_its_start_and_passes_a_new_one_on():
    curve = Bezier(network("dropout"), network("dropout"))
    assert not curve.training
    assert not curve.at(0.5).training
    assert curve.train().at(0.5).training
    assert not curve.eval().at(0.5).training


def test_what_the_end_alone_has_is_on_the_device_of_the_start():
    """A fine-tuned copy is on the GPU, and the network that it was made of where it was."""
    start, end = (nn.Sequential(nn.BatchNorm2d(2, affine=False)) for _ in range(2))
    curve = Bezier(start.to("meta"), end, bends=0)
    for t in (0.0, 1.0):
        assert {tensor.device.type for tensor in curve.uncombined(t).values()} == {"meta"}
    assert {tensor.device.type for tensor in end.buffers()} == {"cpu"}


def test_a_saved_curve_is_its_bends():
    start, end = pair("batchnorm")
    curve, again = scrambled(Bezier(start, end)), Bezier(start, end)
    assert list(curve.state_dict()) == ["bends"]
    again.load_state_dict(curve.state_dict())
    assert equal(curve.export(0.4), again.export(0.4))
    assert equal(copy.deepcopy(curve).export(0.4), curve.export(0.4))


def on_grid(bits):
    return quantize(linear(), data(), bits, method=PostTraining(), layers="all").model


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Bezier(linear(), linear(), bends=-1), "bends = -1"),
        (lambda: Bezier(network("batchnorm"), network("layernorm")), "differ"),
        (
            lambda: Bezier(nn.Linear(3, 2), nn.Linear(3, 4)),
            r"bias: \(2,\) torch.float32 at the start, \(4,\)",
        ),
        (
            lambda: Bezier(nn.Linear(3, 2), nn.Linear(3, 2, bias=False)),
            "bias: .* absent at the end",
        ),
        (lambda: Bezier(nn.Linear(3, 2), nn.Linear(3, 2).double()), "float64"),
        (
            lambda: Bezier(on_grid(4), on_grid("ternary")),
            r"weight: .*top=7.* start, .*top=1",
        ),
        (lambda: Bezier(linear().requires_grad_(False), linear()), "all frozen"),
        (lambda: Bezier(linear(), linear()).at(1.01), "t = 1.01"),
        (lambda: Bezier(linear(), linear()).export(-0.1), "t = -0.1"),
        (lambda: PolyChain(linear(), linear()).weights(float("nan")), "t = nan"),
        (lambda: expected_over_t(cross_entropy, low=0.5, high=0.2), "t from 0.5 to 0.2"),
        (lambda: expected_over_t(cross_entropy)(linear(), None, None), "a Sequential"),
    ],
)
def test_what_is_no_curve_is_refused_in_one_line(make, words):
    with pytest.raises(BadInput, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_frozen_networks_still_have_a_straight_segment():
    start, end = (net.requires_grad_(False) for net in pair("layernorm"))
    curve = Bezier(start, end, bends=0)
    assert equal(curve.export(1.0), end)
    assert not [p for p in curve.parameters() if p.numel()]


@pytest.mark.parametrize("make", [lambda net: Bezier(net, net), lambda net: Plane(net, net, net)])
def test_complex_parameters_are_refused_not_left_behind(make):
    net = network("linear")
    net.phase = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    with pytest.raises(BadInput, match="complex parameters, first phase"):
        make(net)


def test_every_public_curve_goes_through_these_laws():
    exported = [getattr(isthmus.curves, name) for name in isthmus.curves.__all__]
    curves = {c for c in exported if isinstance(c, type) and issubclass(c, Curve)}
    assert curves == {Curve, *KINDS}


# how the ends are kept


def rounded(kind, dtype):
    """A network whose values a narrower type holds, as those of a checkpoint in that type."""
    net = network(kind)
    with torch.no_grad():
        for p in net.parameters():
            if p.is_floating_point():
                p.copy_(p.to(dtype))
    return net


@pytest.mark.parametrize("kind", ["batchnorm", "attention", "frozen", "mixed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_ends_from_a_file_in_their_stored_precision_are_those_in_memory(kind, dtype, monkeypatch):
    nets = [rounded(kind, dtype) for _ in range(2)]
    with torch.no_grad():
        for p in nets[1].parameters():
            if p.is_floating_point():
                p.neg_()

    def found():
        curve = Bezier(*nets, bends=2)
        square = curve.at(0.3).squared_norm
        square.backward()
        exported = [t for s in (0, 0.3, 1) for t in curve.export(s).state_dict().values()]
        return curve, [curve.bends.grad, *exported, torch.tensor(curve.arc_length())]

    monkeypatch.setattr(combine, "_NARROW", ())
    wide, expected = found()
    monkeypatch.undo()
    curve, values = found()
    monkeypatch.setattr(combine, "IN_MEMORY", 16)
    mapped, again = found()
    narrow = dtype != torch.float32 and kind != "mixed"
    assert wide.ends.dtype == curve.bends.dtype
    assert curve.ends.dtype == mapped.ends.dtype
    assert not narrow or curve.ends.element_size() == 2
    assert torch.equal(curve.ends.to(wide.ends.dtype), wide.ends)
    for a, b, c in zip(expected, values, again, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)


def test_both_ends_come_back_exactly_whatever_holds_them(monkeypatch):
    monkeypatch.setattr(combine, "IN_MEMORY", 16)
    first, second = pair("batchnorm")
    curve = Bezier(first, second)
    for t, net in ((0, first), (1, second)):
        for a, b in zip(curve.export(t).parameters(), net.parameters(), strict=True):
            assert torch.equal(a, b)


PEAK = """
import sys, time
from threading import Thread

import torch
from torch import nn

from isthmus import Data, expected_over_t, fit
from isthmus.curves import Bezier
from isthmus.training import cross_entropy
from support.peaks import held

torch.set_num_threads(1)
build = lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 24000), nn.ReLU(), nn.Linear(24000, 300))
data = Data(torch.rand(8, 3, 8, 8), torch.arange(8), 300)
options = dict(lr=1e-6, batch_size=4, precision="fp32", device="cpu")
small = nn.Sequential(nn.Flatten(), nn.Linear(192, 300))
fit(small, data, steps=2, **options)  # what is imported and allocated once
before, peaks = held(), []

def watch():
    while True:
        peaks.append(held())
        time.sleep(0.001)

curve = sys.argv[1] == "curve"
module = Bezier(build(), build()) if curve else build()
Thread(target=watch, daemon=True).start()
fit(module, data, expected_over_t(cross_entropy) if curve else cross_entropy, steps=12, **options)
print(max(peaks) - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_training_a_curve_takes_two_copies_of_the_weights_more_at_most(tmp_path):
    def peak(what):
        own = {"ISTHMUS_CACHE": str(tmp_path), "PYTHONPATH": path}
        own["MALLOC_MMAP_THRESHOLD_"] = "1000000"  # what is freed does not stay with the process
        environment = {**os.environ, **own}
        command = [sys.executable, "-c", PEAK, what]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return float(done.stdout)

    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    copy = (192 + 300) * 24000 * 4 / 2**20
    assert peak("curve") < peak("plain") + 2 * copy + 8
