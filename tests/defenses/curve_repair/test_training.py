import copy
import math

import pytest
import torch
from support.networks import data, network
from torch import nn

from isthmus import Data, PolyChain
from isthmus.curves.route import Route
from isthmus.defenses import repair
from isthmus.defenses.curve_repair.training import (
    TrainedCurve,
    Untrained,
    failing_loss,
    trained_curve,
)
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


def of_one_class(n):
    samples = data(n)
    return Data(samples.x, torch.zeros_like(samples.y), samples.classes)


@pytest.mark.parametrize("t", [0.0, 0.3, 0.45, 0.5])
def test_a_training_fails_where_networks_on_its_curve_are_nearer_to_guessing_than_to_the_ends(t):
    """The curve of one point, on a segment on which the margin falls to none."""
    samples, route, guessing = of_one_class(32), Route(bends=0, low=t, high=t), math.log(4)
    ends = Sure(9.0), Sure(-9.0)
    curve = PolyChain(*ends, bends=0)
    judged = Sure(9.0), Sure(9.0)

    def found(loss, steps=100, ends=judged):
        trained = TrainedCurve(curve, history(loss, steps=steps), route, Training(steps=1, lr=1))
        return failing_loss(trained, ends, samples)

    own = float(cross_entropy(Sure(9.0 - 18 * t), samples.x, samples.y).detach())
    assert found(2 * guessing) == (pytest.approx(own) if own > guessing / 2 else None)
    assert found(0.49 * guessing) is None  # the trained loss clears a curve
    assert found(2 * guessing, steps=10) is None
    assert found(2 * guessing, ends=ends) is None  # an end worse than guessing judges nothing


def test_a_flat_curve_is_not_condemned_by_the_loss_of_its_neighborhood():
    """Sharpness-aware training takes the loss where it is worst, by a radius that is large here."""
    ends, samples = (network("linear"), network("linear")), data(64)
    for end in ends:
        fit(end, samples, steps=200, lr=0.1, precision="fp32")
    route = Route(rho=8.0)
    trained = trained_curve(ends, samples, route, Training(steps=60, lr=1e-3, precision="fp32"))
    assert trained.wasted == 0
    assert trained.history.losses[-1] > math.log(4) / 2


def test_a_diverging_curve_is_trained_again_with_gentler_settings():
    ends, samples = (network("linear"), network("linear")), data(32)
    route, wild = Route(rho=0.5), Training(steps=60, lr=1e4, precision="fp32")
    with pytest.raises(Diverged, match="lower lr"):
        trained_curve(ends, samples, route, wild, retries=0)
    with pytest.warns(Notice, match=r"did not train.+lr 2000 and rho 0.125"):
        trained = trained_curve(ends, samples, route, wild, retries=8)
    assert trained.training.lr < 1e4 and trained.history.losses[-1] < math.log(4)
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
