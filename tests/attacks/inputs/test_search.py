"""The loop of all attacks: what an attack costs, and who leaves the batch."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import pytest
import torch
from support.attacked import Counting
from support.networks import network, pair
from support.refusals import refused

from isthmus import Bezier
from isthmus.attacks import APGD, FAB, PGD, Square, WorstOf
from isthmus.attacks.inputs.objectives import margin
from isthmus.attacks.inputs.search import TrialAttack, Visit
from isthmus.data import L2, Linf


def live_point():
    """A network whose weights are themselves the end of a graph."""
    return Bezier(*pair("batchnorm")).at(0.3)


@pytest.mark.parametrize(
    "make", [lambda: network("batchnorm"), live_point], ids=["network", "point of a curve"]
)
@pytest.mark.parametrize(
    "attack",
    [PGD(Linf(0.05), 3), APGD(Linf(0.05), "dlr", 4), FAB(L2(1.0), 2)],
    ids=lambda a: type(a).__name__,
)
def test_no_gradient_of_a_weight_is_computed(make, attack, samples):
    net = make()
    with Counting() as count:
        attack(net, *samples)
    assert count.backward > 0 and count.weights == 0


@pytest.mark.parametrize("steps", [1, 7])
def test_a_training_attack_is_one_forward_and_one_backward_pass_a_step(steps, net, samples):
    with Counting() as count:
        PGD(Linf(0.05), steps).for_training()(net, *samples)
    assert count.samples == [24] * steps and count.backward == 2 * steps


def test_fooled_samples_leave_the_batch(net, samples):
    with Counting() as count:
        PGD(Linf(0.3), 10)(net, *samples)
    seen = count.samples
    assert seen[0] == 24 and seen == sorted(seen, reverse=True) and seen[-1] < seen[1]


def test_batches_are_no_larger_than_asked(net, samples):
    with Counting() as count:
        PGD(Linf(0.05), 2, batch_size=7)(net, *samples)
    assert max(count.samples) == 7


def test_an_attack_is_a_list_of_trials_and_whether_it_draws(net, samples):
    """The contract of `TrialAttack`: the loop keeps the worst of what the trials visit."""

    @dataclass(frozen=True)
    class Lighter(TrialAttack):
        random: ClassVar[bool] = False
        gradients: ClassVar[int] = 0

        def _trials(self, clean, y):
            assert clean.shape == (24, 4) and len(y) == 24
            return [partial(self._visit, change) for change in (0.0, 0.4)]

        def _visit(self, change, victim, rows, _):
            points = (rows.x + change).clamp(0, 1)
            yield Visit(rows, points, victim.logits(points))

    x, y = samples
    lighter = (x + 0.4).clamp(0, 1)
    with torch.no_grad():
        fooled = net.eval()(lighter).argmax(1) != y
        worse = margin(net(lighter), y) > margin(net(x), y)
    assert 0 < fooled.sum() < len(y)
    expected = torch.where(worse[:, None, None, None], lighter, x)
    assert torch.equal(Lighter()(net, x, y), expected)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: PGD(Linf(0.1), steps=0), "steps"),
        (lambda: APGD(Linf(0.1), restarts=0), "restarts"),
        (lambda: FAB(Linf(0.1), targets=0), "targets"),
        (lambda: Square(Linf(0.1), queries=0), "queries"),
    ],
)
def test_a_count_below_one_is_refused_by_its_name(make, name):
    refused(make, f"{name} = 0", "1 or more", f"pass {name}=1")


def test_no_samples_come_back_as_none(net, samples):
    x, y = samples[0][:0], samples[1][:0]
    for attack in (PGD(Linf(0.1)), APGD(Linf(0.1)), Square(Linf(0.1)), WorstOf([PGD(Linf(0.1))])):
        assert attack(net, x, y).shape == x.shape
