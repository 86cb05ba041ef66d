"""Robust accuracy and loss."""

from dataclasses import replace

import pytest
import torch
from support.attacked import answered, right
from support.networks import data, network
from support.refusals import refused

from isthmus.attacks import (
    PGD,
)
from isthmus.data import Linf
from isthmus.metrics import Accuracy, MeanLoss, RobustAccuracy, RobustLoss, attacked, measure


@pytest.fixture
def net():
    return network("batchnorm")


def test_robust_accuracy_is_the_accuracy_on_attacked_data(net):
    some, attack = answered(40, seed=6), PGD(Linf(0.05), steps=5)
    rate = RobustAccuracy(some, attack)(net)
    assert rate.n == 40 and rate.hits == int(
        right(net, attack(net, some.floats(), some.y), some.y).sum()
    )
    assert rate < Accuracy(some)(net)
    assert RobustAccuracy(some, PGD(Linf(0.0)))(net) == Accuracy(some)(net)
    worst = replace(attack, returns="worst")
    assert RobustLoss(some, worst)(net) > MeanLoss(some)(net)
    assert RobustLoss(some, PGD(Linf(0.0), returns="worst"))(net) == pytest.approx(
        MeanLoss(some)(net)
    )


def test_questions_about_one_attack_share_it(net):
    some, met = answered(12), []

    def attack(model, x, y):
        met.append(len(x))
        return PGD(Linf(0.05), returns="worst")(model, x, y)

    asked = {"accuracy": RobustAccuracy(some, attack), "loss": RobustLoss(some, attack)}
    together = measure(net, asked)
    assert met == [12] and together == {name: metric(net) for name, metric in asked.items()}
    assert len(met) == 3
    with torch.no_grad():
        net[-1].bias.add_(torch.tensor([5.0, 0, 0, 0]))
    assert measure(net, asked) != together, "another network, another answer"


def test_an_attack_that_breaks_the_rules_is_refused(net):
    some = data(8)
    refused(lambda: attacked(net, some, lambda model, x, y: x + 2), "in [0, 1]")
    refused(lambda: attacked(net, some, lambda model, x, y: x[:, :1]), "shape")
