import copy
import math

import pytest
import torch
from support.networks import data, network
from torch import nn

from isthmus.curves.route import Route
from isthmus.defenses import repair
from isthmus.defenses.curve_repair.training import Untrained, has_failed, trained_curve
from isthmus.runs.notices import Notice
from isthmus.training import cross_entropy, fit
from isthmus.training.budget import History, Training
from isthmus.training.state import Diverged


def history(*losses, steps=100):
    return History(steps, 0.1, 32, 0, "fp32", "", losses=list(losses))


class Sure(nn.Module):
    """A network that is right about one class for all samples, by a margin."""

    def __init__(self, margin):
        super().__init__()
        self.bias = nn.Parameter(torch.tensor([margin, 0.0, 0.0, 0.0]))

    def forward(self, x):
        return self.bias.expand(len(x), 4)


def test_a_training_fails_where_its_loss_is_nearer_to_guessing_than_to_the_ends():
    samples = data(32)
    samples = type(samples)(samples.x, torch.zeros_like(samples.y), samples.classes)
    ends, guessing = (Sure(9.0), Sure(9.0)), math.log(4)
    assert not has_failed(history(0.01), ends, samples, cross_entropy)
    assert not has_failed(history(0.49 * guessing), ends, samples, cross_entropy)
    assert has_failed(history(0.6 * guessing), ends, samples, cross_entropy)
    assert not has_failed(history(guessing, steps=10), ends, samples, cross_entropy)
    lost = (Sure(-9.0), Sure(9.0))  # an end that is worse than guessing judges nothing
    assert not has_failed(history(guessing), lost, samples, cross_entropy)


def test_a_diverging_curve_is_trained_again_with_gentler_settings():
    ends, samples = (network("linear"), network("linear")), data(32)
    route, wild = Route(rho=0.5), Training(steps=60, lr=1e4, precision="fp32")
    with pytest.raises(Diverged, match="lower lr"):
        trained_curve(ends, samples, route, wild, retries=0)
    with pytest.warns(Notice, match=r"did not train.+lr 2000 and rho 0.125"):
        trained = trained_curve(ends, samples, route, wild, retries=8)
    assert trained.training.lr < 1e4 and trained.loss < math.log(4)
    attempts = round(math.log(1e4 / trained.training.lr, 5))
    assert trained.wasted >= attempts * 60 * route.cost > 0


def test_a_curve_that_trains_is_trained_once():
    ends, samples = (network("linear"), network("linear")), data(32)
    trained = trained_curve(ends, samples, Route(), Training(steps=60, lr=0.05))
    assert trained.wasted == 0 and trained.training.lr == 0.05
    straight = trained_curve(ends, samples, Route(bends=0), Training(steps=60, lr=0.05))
    assert straight.history is None and straight.wasted == 0


def twins():
    """Two networks that compute the same and whose mean answers every image alike: tanh is odd."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.Tanh(), nn.Linear(16, 4))
    fit(net, data(64), steps=200, lr=0.1, precision="fp32")
    twin = copy.deepcopy(net)
    with torch.no_grad():
        for p in (twin[1].weight, twin[1].bias, twin[3].weight):
            p.neg_()
    return net, twin


def test_a_curve_that_never_trains_is_refused_and_says_what_was_tried():
    """At rates that move nothing, and a retry lowers them."""
    still = Training(steps=60, lr=1e-9, precision="fp32")
    with pytest.warns(Notice, match="did not train"), pytest.raises(Untrained) as error:
        trained_curve(twins(), data(64), Route(low=0.5, high=0.5), still, retries=1)
    assert "after 2 trainings its loss is 1.3" in str(error.value)
    assert "guessing has 1.39" in str(error.value) and "\n" not in str(error.value)


def test_a_repair_hands_over_nothing_where_its_curve_does_not_train():
    net, twin = twins()
    still = Training(steps=60, lr=1e-9, precision="fp32")
    with pytest.warns(Notice, match="did not train"), pytest.raises(Untrained):
        repair(net, data(150), twin, route=Route(low=0.5, high=0.5), training=still, points=3)
