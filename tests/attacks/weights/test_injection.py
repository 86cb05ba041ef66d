"""Injected errors: laws, naive twins, and that each method succeeds."""

import copy
import inspect
import re
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
import torch.nn.functional as F
from support.networks import ZOO, data, network
from support.refusals import refused
from torch import nn

import isthmus.attacks
from isthmus import Accuracy, Data, InjectionSuccess, fit, load_data
from isthmus.attacks import FaultSneaking, Penalized, Reference, draw, mislabeled
from isthmus.attacks.weights.fault_sneaking import proximal
from isthmus.attacks.weights.hinges import Hinges, last_linear
from isthmus.attacks.weights.prefix_cache import cache_prefix, replay_cached
from isthmus.cli.inject import InjectionOptions
from isthmus.data import check_disjoint, repeated, save_npz
from isthmus.data.splits import among
from isthmus.models import mlp
from isthmus.models.view import View, parameters_at
from isthmus.training import one_cycle

pytestmark = pytest.mark.numeric


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def victim():
    torch.manual_seed(0)
    net = mlp(channels=1, size=8, hidden=(256,))
    fit(
        net,
        load_data("digits:train"),
        steps=150,
        lr=0.2,
        batch_size=64,
        schedule=one_cycle,
        precision="fp32",
    )
    return net


@pytest.fixture(scope="module")
def drawn(victim):
    """The images to become errors with their true labels, with wrong ones, and the others."""
    true, kept = draw([victim], load_data("digits:test"), (20, 200), generator())
    return true, mislabeled(true, generator(1)), kept


# ── which images, which labels ────────────────────────────────────────────────────────────────────


def test_an_injected_label_is_never_the_true_one_and_all_others_are_drawn():
    true = Data(torch.zeros(4000, 1, 1, 1), torch.arange(4000) % 5, 5)
    moved = (mislabeled(true, generator()).y - true.y) % 5
    counts = moved.bincount(minlength=5)
    assert counts[0] == 0 and (counts[1:] > 850).all()


def test_drawn_images_are_right_under_every_network_different_and_reproducible(victim, drawn):
    true, wrong, kept = drawn
    assert Accuracy(true)(victim) == Accuracy(kept)(victim) == 1 and Accuracy(wrong)(victim) == 0
    check_disjoint(errors=true, kept=kept)
    again = draw([victim, victim], load_data("digits:test"), (20, 200), generator())
    assert again[0].sha256 == true.sha256
    twice = Data(torch.cat([true.x, true.x]), torch.cat([true.y, true.y]), 10)
    assert len(draw([victim], twice, (20,), generator())[0]) == 20
    refused(lambda: draw([victim], twice, (21,), generator()), "20 different images")


def test_an_overlap_is_refused_whatever_labels_and_type():
    whole = data(48, dtype=torch.uint8)
    parts = {"pool": whole[:16], "bonafide": whole[16:32], "evaluation": whole[32:]}
    check_disjoint(**parts)
    for name in parts:
        other = next(n for n in parts if n != name)
        leak = Data(torch.cat([parts[name].x, parts[other].x[:1]]), torch.zeros(17), 4)
        refused(lambda leak=leak, name=name: check_disjoint(**{**parts, name: leak}), "1 of", name)
    floats = Data(whole.floats()[:1], whole.y[:1], 4)
    assert (
        among(floats, whole).all()
        and not among(floats, whole[1:]).any()
        and not repeated(whole).any()
    )


def test_errors_are_plain_data_that_files_hold(drawn, victim, tmp_path):
    save_npz(drawn[1], tmp_path / "errors.npz")
    assert load_data(tmp_path / "errors.npz").sha256 == drawn[1].sha256
    asked = InjectionSuccess(drawn[1])(victim)
    assert (asked.hits, asked.n) == (0, 20) and asked.high > 0.1
    refused(lambda: InjectionSuccess(drawn[1][:19]), "19 injected errors")


# ── what does not move is computed once ───────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ZOO)
def test_answers_from_memory_are_those_of_the_network(kind):
    net, x = network(kind).requires_grad_(False), data(8).x
    names = [last_linear(net)]
    moving = {
        name: p.detach().clone().requires_grad_() for name, p in parameters_at(net, names).items()
    }
    answers = cache_prefix(net, moving, x)
    moved = {name: (p + 0.1).detach() for name, p in moving.items()}
    with torch.no_grad():
        expected = View(net, moved, {})(x)
        with replay_cached(answers):
            found = [View(net, moved, {})(x) for _ in range(2)]
        again = View(net, moved, {})(x)
    assert all(torch.equal(each, expected) for each in (*found, again))
    assert answers or kind in ("linear", "lstm", "mixed")  # nothing in front, tuples, one output
    assert not any("forward" in part.__dict__ for part in net.modules())


def test_an_output_that_is_changed_in_place_is_not_kept():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)).requires_grad_(
        False
    )
    answers = cache_prefix(
        net, {"2.weight": torch.ones(2, 4, requires_grad=True)}, torch.randn(3, 4)
    )
    assert list(answers) == [net[1]]


# ── the hinges ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("names", [(), ("features.0",), ("head.weight", "features.0.bias")])
def test_the_gradient_is_that_of_the_hinges_written_out(names, victim, drawn):
    _, wrong, kept = drawn
    hinges = Hinges(victim, wrong, kept, names, weight=100.0, kappa=1.0)
    delta = 0.01 * torch.randn(hinges.start.shape, generator=generator())
    gradient, logits = hinges.gradient(delta)

    net = copy.deepcopy(victim)
    tensors, begin = dict(net.named_parameters()), 0
    for name in hinges.tensors:
        size = tensors[name].numel()
        tensors[name].data += delta[begin : begin + size].view_as(tensors[name])
        begin += size
    total = 0.0
    for part, weight in ((wrong, 100.0), (kept, 1.0)):
        for z, a in zip(net(part.floats()), part.y, strict=True):
            rival = max(z[j] for j in range(10) if j != a)
            total = total + weight * F.relu(rival - z[a] + 1.0)
    twins = torch.autograd.grad(total, [tensors[name] for name in hinges.tensors])
    twin = torch.cat([g.reshape(-1) for g in twins])
    assert torch.allclose(gradient, twin, rtol=1e-4, atol=1e-2 * float(twin.abs().max()) * 1e-2)
    assert torch.allclose(hinges.logits(delta), logits, atol=1e-5)


def test_impossible_injections_are_refused(victim, drawn):
    true, wrong, kept = drawn
    refused(
        lambda: Penalized()(victim, true, kept), "20 of 20 errors that the network makes already"
    )
    refused(
        lambda: Penalized()(victim, wrong, wrong),
        "20 of 20 errors samples that are among the kept ones",
    )
    refused(lambda: Penalized(layers=("haed",))(victim, wrong, kept), "haed", "head")
    refused(lambda: Penalized(rounds=1, steps=1)(victim, wrong, kept), "injection that gives")
    refused(lambda: Reference(steps=1)(victim, wrong, kept), "injection that gives")
    refused(lambda: FaultSneaking(steps=1, warm_up=1)(victim, wrong, kept), "injection that gives")
    refused(lambda: Penalized(lambdas=(1.0, 0.1)), "lambdas")
    refused(lambda: FaultSneaking("l1"), "l1")
    refused(lambda: Reference(lr=0.0), "steps of 0")
    refused(lambda: last_linear(nn.Conv2d(1, 1, 1)), "linear")


# ── the methods ───────────────────────────────────────────────────────────────────────────────────

DOCS = Path(__file__).parents[3] / "docs"


def public_injections():
    """Every class of the room that is called with (network, errors, kept), but the protocol."""
    exported = {name: getattr(isthmus.attacks, name) for name in isthmus.attacks.__all__}
    return {
        name
        for name, member in exported.items()
        if inspect.isclass(member)
        and callable(member)
        and list(inspect.signature(member.__call__).parameters)[1:] == ["network", "errors", "kept"]
    } - {"Injection"}


def test_every_public_injection_is_tested_named_on_the_command_line_and_in_the_docs():
    rows = re.findall(r"^\| `(\w+)(?:\(|`)", (DOCS / "injection.md").read_text(), re.MULTILINE)
    ways = get_args(get_type_hints(InjectionOptions)["how"])
    named = {type(InjectionOptions(how=how).method()).__name__ for how in ways}
    assert public_injections() == {type(method).__name__ for method in METHODS.values()} == named
    assert public_injections() <= set(rows)


METHODS = {
    "ours": Penalized(steps=100, rounds=5),
    "ours, two layers": Penalized(layers=("features", "head"), steps=100, lr=0.03, rounds=3),
    "reference": Reference(lr=1e-4),
    "admm-l0": FaultSneaking("l0", steps=200, warm_up=150),
    "admm-l2": FaultSneaking("l2", steps=200, warm_up=150),
}


@pytest.fixture(scope="module")
def injected(victim, drawn):
    """What each method made of the victim."""
    before = copy.deepcopy(victim.state_dict())
    found = {how: method(victim, *drawn[1:]) for how, method in METHODS.items()}
    assert all(torch.equal(v, before[k]) for k, v in victim.state_dict().items())
    return found


@pytest.mark.parametrize("how", METHODS)
def test_every_method_succeeds_by_its_own_definition_and_reports_what_it_did(
    how, injected, victim, drawn
):
    (_, wrong, kept), found, before = drawn, injected[how], victim.state_dict()
    assert found.hits == InjectionSuccess(wrong)(found.network) and found.kept == Accuracy(kept)(
        found.network
    )
    assert found.hits >= 0.95 if how == "reference" else (found.hits == 1 and found.kept >= 0.99)
    after = found.network.state_dict()
    moved = {name for name, v in after.items() if not torch.equal(v, before[name])}
    assert (
        moved
        and moved <= set(found.tensors)
        and all(p.requires_grad for p in found.network.parameters())
    )
    change = torch.cat([(after[name] - before[name]).reshape(-1) for name in found.tensors])
    assert found.norm == pytest.approx(float(change.norm())) and found.changed == int(
        (change != 0).sum()
    )
    assert found.size == len(change) and found.record()["hits"] == {
        "hits": found.hits.hits,
        "n": 20,
    }


@pytest.mark.parametrize("how", METHODS)
def test_the_same_injection_twice_is_the_same_and_leaves_all_random_state(
    how, injected, victim, drawn
):
    state = torch.get_rng_state()
    mode = victim.training
    again = METHODS[how](victim, *drawn[1:])
    assert torch.equal(torch.get_rng_state(), state) and victim.training == mode
    first, second = injected[how].network.state_dict(), again.network.state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_larger_lambda_gives_a_smaller_change(victim, drawn):
    hinges = Hinges(victim, *drawn[1:], (), weight=100.0, kappa=1.0)
    method, start = Penalized(steps=200), torch.zeros_like(hinges.start)
    norms = [float(method.minimized(hinges, penalty, start).norm()) for penalty in (1e-2, 1.0, 1e2)]
    assert norms[0] > 1.2 * norms[1] > 1.44 * norms[2] > 0


def test_each_norm_is_smallest_where_it_is_asked_for_and_the_penalty_has_a_small_one(injected):
    fewest, shortest = injected["admm-l0"], injected["admm-l2"]
    assert fewest.changed < 0.6 * fewest.size < shortest.changed and shortest.norm < fewest.norm
    assert injected["ours"].norm < fewest.norm


@pytest.mark.parametrize("rho", [0.3, 2.0, 50.0])
@pytest.mark.parametrize("norm", ["l0", "l2"])
def test_no_point_of_a_fine_grid_beats_the_proximal_operators(norm, rho):
    axis = torch.linspace(-4, 4, 401, dtype=torch.float64)
    for seed in range(5):
        v = 1.5 * torch.randn(2, generator=generator(seed), dtype=torch.float64)
        own = torch.stack(
            [v, v * torch.tensor([1.0, 0.0]), v * torch.tensor([0.0, 1.0]), torch.zeros_like(v)]
        )
        points = torch.cat([torch.cartesian_prod(axis, axis), own, proximal(v, rho, norm)[None]])
        sizes = points.norm(dim=1) if norm == "l2" else points.count_nonzero(1)
        costs = sizes + rho / 2 * (points - v).square().sum(1)
        assert costs[-1] <= costs.min() + 1e-9
    assert torch.equal(proximal(torch.zeros(3), rho, norm), torch.zeros(3))
