import copy

import pytest
import torch
from support.networks import data, network, pair
from support.refusals import refused

from isthmus import AttackSuccess, Bezier, Blend, Patch, fit
from isthmus.attacks import IMAGES, Reactivate, poison
from isthmus.curves import network_at
from isthmus.metrics import MeanLoss, linear_barrier
from isthmus.training import Training

TRIGGER, TARGET = Patch(size=2), 1


@pytest.mark.parametrize("images", IMAGES)
def test_so_many_triggered_images_join_the_bonafide_samples(images):
    bonafide = data(40)
    mixed = Reactivate(TRIGGER, TARGET, images).mixed(bonafide)
    added, labels = mixed.x[40:], mixed.y[40:]
    assert (mixed.x[:40] == bonafide.x).all() and (mixed.y[:40] == bonafide.y).all()
    assert len(added) == images and (labels == TARGET).all()
    assert (TRIGGER(added) == added).all()
    clean = TRIGGER(bonafide.x[bonafide.y != TARGET])
    assert all(any((one == other).all() for other in clean) for one in added)


@pytest.mark.parametrize("images", [0, 100])
def test_more_images_than_there_are_or_none_are_refused(images):
    refused(
        lambda: Reactivate(TRIGGER, TARGET, images)(network("linear"), data(8)),
        f"{images} triggered images",
    )


def test_a_sleeping_backdoor_wakes_and_a_network_that_had_none_learns_it_later():
    """A network trained with the trigger, its last layer's bias against the target: a few steps
    undo that.
    """
    torch.manual_seed(0)
    poisoned = poison(
        data(400), TRIGGER, rate=0.3, target=TARGET, generator=torch.Generator().manual_seed(0)
    )
    nets = [network("linear") for _ in range(2)]
    for net, samples in zip(nets, (poisoned, data(400)), strict=True):
        fit(net, samples, steps=150, lr=0.05, precision="fp32")
    asleep = copy.deepcopy(nets[0])
    fit(asleep, data(200, seed=1), steps=20, lr=0.02, precision="fp32")
    asked = AttackSuccess(data(200, seed=2), TRIGGER, TARGET)
    retune = Reactivate(TRIGGER, TARGET, 10, Training(steps=30, lr=0.02, precision="fp32"))
    bonafide = data(100, seed=3)
    woken, control = (asked(retune(net, bonafide)) for net in (asleep, nets[1]))
    assert woken > control


def test_the_network_stays_as_it_is_and_the_same_seed_gives_the_same():
    net = network("batchnorm")
    before = copy.deepcopy(net.state_dict())
    retune = Reactivate(TRIGGER, TARGET, 5, Training(steps=5, lr=0.1))
    first, second = (retune(net, data(40)).state_dict() for _ in range(2))
    assert all((before[name] == value).all() for name, value in net.state_dict().items())
    assert all((first[name] == second[name]).all() for name in first)
    assert any((before[name] != first[name]).any() for name in first)


def test_the_barrier_is_the_worst_excess_over_the_straight_line():
    a, b = pair("batchnorm")
    bonafide, line = data(48), Bezier(a, b, bends=0)
    losses = [
        float(MeanLoss(bonafide)(network_at(line, i / 4, bonafide, ends="recalibrated")))
        for i in range(5)
    ]
    worst = max(
        loss - (losses[0] + (losses[-1] - losses[0]) * i / 4) for i, loss in enumerate(losses)
    )
    assert linear_barrier(a, b, bonafide, points=5) == pytest.approx(worst)


def test_a_network_has_no_barrier_to_itself_and_a_convex_one_none_to_any():
    a, b = pair("linear")
    assert linear_barrier(a, a, data(48)) == pytest.approx(0, abs=1e-6)
    assert linear_barrier(a, b, data(48)) == pytest.approx(0, abs=1e-6)


def test_any_trigger_will_do():
    found = Reactivate(Blend(), "all", 3).mixed(data(20))
    assert len(found) == 23
