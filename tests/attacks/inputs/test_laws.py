"""Laws that every attack on inputs keeps: one tester for all of them."""

import copy
import inspect
import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from support.attacked import (
    CASES,
    MEMBERS,
    Member,
    every_attack,
    gradients_taken,
    keeps_its_promise,
    loss_of,
    right,
)
from support.networks import ZOO, data, network
from torch import nn

import isthmus.attacks
from isthmus.attacks import APGD, FAB, PGD
from isthmus.cli.words import AttackName, parse_attack
from isthmus.data import L2, Linf

pytestmark = pytest.mark.numeric

DOCS = Path(__file__).parents[3] / "docs"


# ── the table ─────────────────────────────────────────────────────────────────────────────────────


def public() -> set[str]:
    """Everything that the room exports from its files of attacks and that can attack a network."""
    exported = {name: getattr(isthmus.attacks, name) for name in isthmus.attacks.__all__}
    return {
        name
        for name, member in exported.items()
        if callable(member)
        and member.__module__.startswith("isthmus.attacks.inputs.")
        and ".health." not in member.__module__
        and attacks(member)
    }


def attacks(member) -> bool:
    """Whether a class takes (model, x, y), or a function returns what does."""
    if inspect.isclass(member):
        parameters = list(inspect.signature(member.__call__).parameters)
        return parameters == ["self", "model", "x", "y"]
    made = getattr(isthmus.attacks, str(inspect.signature(member).return_annotation), None)
    return inspect.isclass(made) and attacks(made)


def test_every_public_attack_is_in_the_table_of_tests():
    assert public() == {name.split(",")[0] for name in CASES}


@every_attack
def test_every_attack_says_what_a_sample_costs(member):
    samples, said = data(6, seed=3), member.attack.gradients
    assert isinstance(said, int) and said > 0
    taken = gradients_taken(member.attack, network("batchnorm"), samples.floats(), samples.y)
    assert taken <= len(samples) * said


def test_the_docs_list_every_public_attack():
    rows = re.findall(r"^\| `(\w+)\(", (DOCS / "attacks.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(public())


@pytest.mark.parametrize("name", get_args(AttackName))
def test_every_name_of_the_command_line_is_an_attack(name, net, samples):
    options = {} if name in ("fgsm", "autoattack") else {"steps": 2}
    attack = parse_attack(name, [Linf(0.0)], **options)
    assert torch.equal(attack(net, *samples), samples[0])


# ── the laws, on the inputs that a user may have ──────────────────────────────────────────────────


def some_wrong(x, y):
    """Labels of which the network gets five wrong."""
    return x, torch.where(torch.arange(len(y)) < 5, (y + 1) % 4, y)


HARD = {
    "right on all": lambda x, y: (x, y),
    "wrong on some": some_wrong,
    "wrong on all": lambda x, y: (x, (y + 1) % 4),
    "one sample": lambda x, y: (x[:1], y[:1]),
    "no sample": lambda x, y: (x[:0], y[:0]),
    "black and white": lambda x, y: (x.round(), y),
    "channels last": lambda x, y: (x.contiguous(memory_format=torch.channels_last), y),
    "not contiguous": lambda x, y: (x.flip(0).transpose(2, 3), y.flip(0)),
}


@every_attack
@pytest.mark.parametrize("hard", HARD.values(), ids=HARD)
def test_points_are_in_ball_and_box_and_no_weaker_than_none(hard, member, net, samples):
    keeps_its_promise(member, net, *hard(*samples))


@every_attack
def test_attacks_work_in_float64(member, net, samples):
    x, y = samples
    keeps_its_promise(member, copy.deepcopy(net).double(), x.double(), y)


@every_attack
@pytest.mark.parametrize("shape", [(1, 7, 5), (2, 3, 11), (3, 1, 4)], ids=str)
def test_images_may_have_any_shape(shape, member):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(shape).numel(), 5))
    x = torch.rand(6, *shape, generator=torch.Generator().manual_seed(1))
    keeps_its_promise(member, net, x, net(x).argmax(1))


@every_attack
def test_an_attack_tries_and_does_harm(member, net, samples):
    x, y = samples
    wide = replace(member, scale=4.0)
    moved = wide.attack(net, x, y)
    assert not torch.equal(moved, x)
    assert loss_of(net, moved, y).mean() > loss_of(net, x, y).mean()


@every_attack
def test_a_ball_of_no_radius_returns_the_input(member, net, samples):
    assert torch.equal(replace(member, scale=0.0).attack(net, *samples), samples[0])


@every_attack
def test_the_same_seed_gives_the_same_points_and_leaves_all_random_state(member, net, samples):
    before = torch.get_rng_state()
    first = member.attack(net, *samples)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(member.attack(net, *samples), first)


def seeded(attack, seed):
    """The attack with another seed, and its parts with theirs."""
    if hasattr(attack, "attacks"):
        return replace(attack, attacks=[seeded(part, seed) for part in attack.attacks])
    return replace(attack, seed=seed)


@every_attack
def test_an_attack_draws_exactly_where_it_says_that_it_is_random(member, net, samples):
    """In a ball so small that samples are left for every restart."""
    attack = replace(member, scale=0.01).attack
    results, states = [], [torch.get_rng_state()]
    for seed in (None, 1, 2):
        results.append(seeded(attack, seed)(net, *samples))
        states.append(torch.get_rng_state())
    assert torch.equal(states[0], states[1]) != attack.random
    assert torch.equal(states[1], states[3]), "seeded attacks leave the global generator alone"
    assert attack.random or all(torch.equal(results[0], other) for other in results)


RANDOM_STARTS = {
    name: member
    for name, member in MEMBERS.items()
    if member.attack.random and not isinstance(member.attack, FAB)
}


@pytest.mark.parametrize("member", RANDOM_STARTS.values(), ids=RANDOM_STARTS)
def test_another_seed_gives_other_points(member, net, samples):
    """All random attacks but FAB, which returns what fools, or the input."""
    results = [seeded(member.attack, seed)(net, *samples) for seed in range(3)]
    assert any(not torch.equal(results[0], other) for other in results[1:])


DETERMINISTIC = {name: member for name, member in MEMBERS.items() if not member.attack.random}


@pytest.mark.parametrize("member", DETERMINISTIC.values(), ids=DETERMINISTIC)
def test_without_chance_neither_batches_nor_order_matter(member, net, samples):
    x, y = samples[0].double(), samples[1]
    net = copy.deepcopy(net).double()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    whole = member.attack(net, x, y)
    parts = [member.attack(net, a, b) for a, b in zip(x.split(5), y.split(5), strict=True)]
    tie = {"atol": 1e-9, "rtol": 0}
    assert torch.allclose(replace(member.attack, batch_size=5)(net, x, y), whole, **tie)
    assert torch.allclose(torch.cat(parts), whole, **tie)
    assert torch.allclose(member.attack(net, x[order], y[order]), whole[order], **tie)


@every_attack
def test_the_network_is_left_as_it_was(member, samples):
    net = network("frozen").train()
    net[1].eval()
    net[4].weight.grad = torch.ones_like(net[4].weight)
    state = copy.deepcopy(net.state_dict())
    flags = [p.requires_grad for p in net.parameters()]
    modes = [part.training for part in net.modules()]
    member.attack(net, *samples)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in state.items()), "weights and buffers"
    assert [p.requires_grad for p in net.parameters()] == flags
    assert [part.training for part in net.modules()] == modes
    assert [n for n, p in net.named_parameters() if p.grad is not None] == ["4.weight"]
    assert (net[4].weight.grad == 1).all()


@pytest.mark.parametrize("kind", sorted(ZOO.keys() - {"batchnorm1d"}))
def test_any_network_can_be_attacked(kind, samples):
    """Any whose answer on a sample is its own; one that normalizes by the batch in eval mode has no
    such answer.
    """
    net, (x, y) = network(kind), samples
    y = net(x).argmax(1)
    for attack in (
        PGD(Linf(0.2), steps=3, returns="worst"),
        APGD(L2(2.0), "dlr", steps=5),
        FAB(Linf(0.2), steps=3),
    ):
        moved = attack(net, x, y)
        assert moved.shape == x.shape and attack.ball.contains(moved - x, 1e-5).all()
        if isinstance(attack, PGD):
            assert loss_of(net, moved, y).mean() > loss_of(net, x, y).mean()


# ── an attack that breaks a law is caught ─────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "broken",
    [
        lambda model, x, y: x + 2,
        lambda model, x, y: (x + 0.2).clamp(0, 1),
        lambda model, x, y: x.double(),
        lambda model, x, y: x[:, :1],
        lambda model, x, y: x.add_(0.01).clamp_(0, 1),
    ],
    ids=["outside the box", "outside the ball", "another type", "another shape", "in place"],
)
def test_an_attack_that_breaks_its_promise_is_caught(broken, net):
    some = data(8)
    case = replace(CASES["PGD"], make=lambda ball: broken)
    with pytest.raises((AssertionError, RuntimeError)):
        keeps_its_promise(Member(case, (Linf(0.05),)), net, some.floats(), some.y)


def test_an_attack_weaker_than_none_is_caught(net, samples):
    x, y = samples
    wrong = (y + 1) % 4

    def helps(model, x, y):
        return PGD(Linf(0.05), steps=20)(model, x, right(model, x, y) * 0 + (y - 1) % 4)

    case = replace(CASES["PGD"], make=lambda ball: helps)
    with pytest.raises(AssertionError):
        keeps_its_promise(Member(case, (Linf(0.05),)), net, x, wrong)
