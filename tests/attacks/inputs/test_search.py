"""The loop of all attacks: what an attack costs, and who leaves the batch."""

import pytest
from support.attacked import Counting, answered
from support.networks import network, pair

from isthmus import Bezier
from isthmus.attacks import (
    APGD,
    FAB,
    PGD,
)
from isthmus.data import L2, Linf


@pytest.fixture
def net():
    return network("batchnorm")


@pytest.fixture(scope="module")
def samples():
    some = answered()
    return some.x, some.y


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
