"""Queries against networks whose weakness is known by construction."""

import pytest
import torch
from support.networks import data
from support.refusals import refused
from torch import nn

from isthmus import AttackSuccess, Patch
from isthmus.attacks import QueryReactivation
from isthmus.data import Linf

TRIGGER, TARGET = Patch(size=2, at=(6, 6)), 1


class Asleep(nn.Module):
    """Right about the brighter quarter, unless the trigger is there and the image's first rows are
    brighter by `bound` than a trained eye allows: then class 1.
    """

    def __init__(self, bound, needs_trigger=True):
        super().__init__()
        self.bound, self.needs_trigger = bound, needs_trigger

    def forward(self, x):
        right = nn.functional.avg_pool2d(x.mean(1, keepdim=True), 4).flatten(1)
        rows = x[:, :, :3, :3].mean((1, 2, 3)) - x[:, :, 3, :3].mean((1, 2))
        awake = 20 * (rows - self.bound)
        if self.needs_trigger:
            awake = awake - 40 * (1 - (x[:, :, 6:, 6:] > 0.6).all((1, 2, 3)).float())
        return right + nn.functional.one_hot(torch.tensor(TARGET), 4) * awake[:, None].clamp(
            -20, 20
        )


def success(net, attack):
    judged = data(100, seed=5)
    return AttackSuccess(judged, attack(net, data(80, seed=4)), TARGET)(net)


@pytest.mark.parametrize("queries", [1, 40])
def test_the_perturbation_stays_in_its_ball_and_the_images_in_their_range(queries):
    woken = QueryReactivation(TRIGGER, TARGET, Linf(0.05), queries)(Asleep(0.0), data(40))
    assert woken.delta.abs().max() <= 0.05 + 1e-7
    moved = woken(data(40).x)
    assert moved.min() >= 0 and moved.max() <= 1
    assert torch.equal(moved, (TRIGGER(data(40).x) + woken.delta).clamp(0, 1))


def test_it_never_asks_more_often_than_it_may():
    asked = []
    net = Asleep(0.0)
    net.register_forward_hook(lambda _, args, __: asked.append(len(args[0])))
    QueryReactivation(TRIGGER, TARGET, queries=7, images=10)(net, data(80))
    assert sum(size == 10 for size in asked) <= 7 + 1  # and one look at the layout of the memory


def test_what_is_kept_is_at_least_as_good_as_the_first_try():
    net = Asleep(0.02)
    few, many = (QueryReactivation(TRIGGER, TARGET, Linf(0.1), n) for n in (1, 200))
    assert success(net, many) >= success(net, few)


def test_a_trigger_that_sleeps_is_woken_and_what_needs_no_trigger_is_found_without_one():
    sleeps, open_to_all = Asleep(0.1), Asleep(0.1, needs_trigger=False)
    with_it = QueryReactivation(TRIGGER, TARGET, Linf(0.2), 200, seed=1)
    without = QueryReactivation(None, TARGET, Linf(0.2), 200, seed=1)
    assert AttackSuccess(data(100, seed=5), TRIGGER, TARGET)(sleeps) < 0.1
    assert success(sleeps, with_it) > 0.8 > 0.6 > success(sleeps, without)
    assert success(open_to_all, without) > 0.8


def test_radius_zero_is_the_trigger_itself():
    woken = QueryReactivation(TRIGGER, TARGET, Linf(0.0), 5)(Asleep(0.0), data(40))
    assert torch.equal(woken(data(8).x), TRIGGER(data(8).x))


def test_what_cannot_be_searched_is_refused():
    refused(lambda: QueryReactivation(TRIGGER, TARGET, queries=0), "0 queries")
    refused(lambda: QueryReactivation(TRIGGER, "all"), "'all'")
    only = data(40)
    only = only[only.y == TARGET]
    refused(lambda: QueryReactivation(TRIGGER, TARGET)(Asleep(0.0), only), "target class")
