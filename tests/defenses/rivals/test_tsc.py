"""TSC against its rounds written out, and what it refuses."""

import copy

import pytest
from support.refusals import refused
from support.victims import TRAINING, samples, victim
from torch import nn

from isthmus import Bezier, expected_over_t, fit, recalibrate
from isthmus.defenses import TSC
from isthmus.models import align, permuted_copy
from isthmus.training import Training, cross_entropy


def along(start, end, t, steps):
    curve = Bezier(start, end)
    fit(
        curve,
        samples(),
        expected_over_t(cross_entropy, 0.01),
        training=TRAINING.replace(steps=steps),
    )
    return recalibrate(curve.export(t), samples())


@pytest.mark.parametrize("rounds, steps, curve", [(1, 11, 5), (2, 8, 1)])
def test_each_round_goes_out_to_the_least_alike_copy_and_back_to_the_most_alike(
    rounds, steps, curve
):
    net = copy.deepcopy(victim(0))
    for _ in range(rounds):
        middle = along(net, permuted_copy(net, samples()).model, 0.3, curve)
        net = along(align(middle, net, samples()).model, middle, 0.3, curve)
    found = TSC(TRAINING.replace(steps=steps, weight_decay=0.01), t=0.3, rounds=rounds)(
        victim(0), samples()
    )
    for name, value in recalibrate(net, samples()).state_dict().items():
        assert value.equal(found.state_dict()[name]), name


@pytest.mark.parametrize("steps, rounds", [(6, 1), (200, 1), (200, 3), (7900, 3), (500, 2)])
def test_the_parts_cost_no_more_than_the_budget_and_nearly_all_of_it(steps, rounds):
    curve, tuning = TSC(Training(steps=steps, lr=0.1), rounds=rounds)._budget()
    spent = 2 * rounds * curve + (rounds - 1) * tuning
    assert steps - 2 * rounds - rounds < spent <= steps


@pytest.mark.parametrize("settings", [{"t": 0.0}, {"t": 1.0}, {"rounds": 0}])
def test_points_and_rounds_that_do_nothing_are_refused(settings):
    refused(lambda: TSC(TRAINING, **settings)(victim(0), samples()), "rounds")


def test_a_budget_below_one_step_a_curve_is_refused():
    refused(lambda: TSC(TRAINING.replace(steps=5))(victim(0), samples()), "5 gradient")


def test_a_network_without_a_hidden_layer_is_refused():
    refused(
        lambda: TSC(TRAINING.replace(steps=8))(
            nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), samples()
        )
    )
