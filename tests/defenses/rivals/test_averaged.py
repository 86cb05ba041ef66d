"""The average of repaired copies against its definition."""

import pytest
import torch
from support.refusals import refused
from support.victims import TRAINING, samples, victim
from torch import nn

from isthmus.defenses import FTSAM, Averaged, FineTune, StraightAverage
from isthmus.models import recalibrate

pytestmark = pytest.mark.numeric

MADE = (FineTune(TRAINING), FTSAM(TRAINING), FineTune(TRAINING.replace(lr=0.2)))


@pytest.mark.parametrize("count", [2, 3])
def test_the_average_is_the_mean_of_the_weights(count):
    """Naive twin: stack and average; buffers are those of a recalibration."""
    net, data, makers = victim(0), samples(), MADE[:count]
    averaged = Averaged(makers)(net, data)
    each = [dict(make(net, data).named_parameters()) for make in makers]
    twin = victim(0)
    with torch.no_grad():
        for name, p in twin.named_parameters():
            p.copy_(torch.stack([one[name] for one in each]).mean(0))
    expected = recalibrate(twin, data).state_dict()
    assert averaged.state_dict().keys() == expected.keys() and not averaged.training
    assert all(
        torch.allclose(value, expected[name], atol=1e-6)
        for name, value in averaged.state_dict().items()
    )


def test_the_tampered_network_stays_as_it_is():
    net = victim(0).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert not Averaged(MADE[:2])(net, samples()).training and net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_the_order_does_not_matter():
    one, other = (
        Averaged(makers)(victim(0), samples()).state_dict() for makers in (MADE[:2], MADE[1::-1])
    )
    assert all(torch.allclose(value, other[name], atol=1e-6) for name, value in one.items())


def test_the_budget_is_the_sum():
    assert Averaged(MADE).gradients == 3 * TRAINING.steps
    assert Averaged((*MADE[:1], StraightAverage(victim(1)))).gradients == TRAINING.steps


def test_one_network_is_no_average_and_another_architecture_none_either():
    refused(lambda: Averaged(MADE[:1]), "1 defenses")
    refused(
        lambda: Averaged((MADE[0], lambda net, data: nn.Linear(2, 2)))(victim(0), samples()),
        "other parameters",
    )
