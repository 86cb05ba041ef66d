"""Several attacks as one, and AutoAttack beside other implementations."""

import copy
import warnings
from dataclasses import replace

import pytest
import torch
from support.attacked import BALLS, loss_of, right, robust_digits

from isthmus.attacks import APGD, FAB, PGD, Square, WorstOf, auto_attack
from isthmus.data import L1, L2, Linf
from isthmus.metrics import Accuracy, RobustAccuracy
from isthmus.training import adversarial

pytestmark = pytest.mark.numeric

BOTH = pytest.mark.parametrize("ball", [Linf(0.15), L2(0.8)], ids=["linf", "l2"])


def test_worst_of_is_as_strong_as_the_union(net, samples):
    x, y = samples
    parts = [PGD(Linf(0.02), steps=3), PGD(L2(0.3), steps=3), PGD(L1(2.0), steps=3)]
    together = right(net, WorstOf(parts)(net, x, y), y)
    alone = torch.stack([right(net, part(net, x, y), y) for part in parts]).all(0)
    assert together.sum() <= alone.sum() and alone.sum() < right(net, x, y).sum()


def test_each_attack_of_several_meets_only_who_still_stands(net, samples):
    x, y = samples
    met = []

    def spy(model, x, y):
        met.append(len(x))
        return PGD(Linf(0.03), steps=2)(model, x, y)

    WorstOf([spy, spy])(net, x, y)
    fooled = (~right(net, PGD(Linf(0.03), steps=2)(net, x, y), y)).sum()
    assert met[0] == right(net, x, y).sum() and met[1] == len(x) - fooled


def test_the_worst_of_several_attacks_has_a_form_for_training(net, samples):
    """All of them on all samples, drawn afresh; for each sample the point of the highest loss."""
    x, y = samples
    parts = [PGD(ball, steps=1, random_start=False) for ball in BALLS]
    attack = adversarial(WorstOf(parts)).attack
    moved = attack(net, x, y)
    losses = torch.stack(
        [loss_of(net, replace(part, returns="last")(net, x, y), y) for part in parts]
    )
    torch.testing.assert_close(loss_of(net, moved, y), losses.amax(0))
    state = copy.deepcopy(net.train().state_dict())
    attack(net, x, y)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in state.items())
    assert all(part.training for part in net.modules()) and net[1].track_running_stats


@pytest.mark.slow
@BOTH
def test_auto_attack_agrees_with_its_authors(ball):
    """To within the attacks' own randomness, on a fixed batch."""
    pyautoattack = pytest.importorskip("pyautoattack")
    net, some = robust_digits(ball)
    norm = {Linf: "Linf", L2: "L2"}[type(ball)]
    standard = pyautoattack.AutoAttack(net, norm=norm, eps=ball.eps, seed=0)
    found, _ = standard.run_standard_evaluation(some.floats(), some.y)
    theirs = right(net, found, some.y)
    ours = right(net, auto_attack(ball)(net, some.floats(), some.y), some.y)
    print(
        f"\n{ball}: AutoAttack {ours.sum()} of {len(some)}, pyautoattack {theirs.sum()}, "
        f"{(ours ^ theirs).sum()} differ"
    )
    assert abs(int(ours.sum()) - int(theirs.sum())) <= 1 and (ours ^ theirs).sum() <= 2


@pytest.mark.slow
@BOTH
def test_auto_attack_agrees_with_another_implementation(ball):
    """To within the attacks' own randomness, on a fixed batch."""
    warnings.simplefilter("ignore")
    torchattacks = pytest.importorskip("torchattacks")
    net, some = robust_digits(ball)
    x, norm = some.floats(), {Linf: "Linf", L2: "L2"}[type(ball)]
    theirs = torchattacks.AutoAttack(
        net, norm=norm, eps=ball.eps, version="standard", n_classes=10, seed=0
    )(x, some.y)
    pgd = RobustAccuracy(some, PGD(ball, steps=20))(net)
    ours, peer = (
        RobustAccuracy(some, auto_attack(ball))(net),
        right(net, theirs, some.y).double().mean().item(),
    )
    print(
        f"\n{ball}: clean {Accuracy(some)(net):.3f}, PGD-20 {pgd:.3f}, AutoAttack {ours:.3f}, "
        f"torchattacks {peer:.3f}"
    )
    assert ours <= pgd and abs(ours - peer) <= 0.031, "three of a hundred samples"
    strong = {
        "APGD-CE": (
            APGD(ball, "ce"),
            torchattacks.APGD(net, norm=norm, eps=ball.eps, steps=100, seed=0),
        ),
        "APGD-T": (
            APGD(ball, "targeted"),
            torchattacks.APGDT(net, norm=norm, eps=ball.eps, steps=100, n_classes=10),
        ),
        "FAB-T": (
            FAB(ball),
            torchattacks.FAB(
                net, norm=norm, eps=ball.eps, steps=100, n_classes=10, multi_targeted=True
            ),
        ),
        "Square": (
            Square(ball, queries=1000),
            torchattacks.Square(net, norm=norm, eps=ball.eps, n_queries=1000),
        ),
    }
    for name, (one, other) in strong.items():
        accuracy = RobustAccuracy(some, one)(net)
        found = other(x, some.y)
        inside = ball.contains(found - x, 1e-5)
        peer = (right(net, found, some.y) | ~inside).double().mean().item()
        print(f"  {name}: {accuracy:.3f}, torchattacks {peer:.3f}")
        assert accuracy <= peer + 0.04, name
