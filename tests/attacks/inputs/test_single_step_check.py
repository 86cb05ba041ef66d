"""Catastrophic overfitting: a planted case is seen, an honest network passes, and training that has
collapsed stops.
"""

import copy

import pytest
import torch
from support.networks import ZOO, data, network, pair
from support.refusals import refused
from torch import nn

from isthmus import Bezier, Data, fit
from isthmus.attacks import NoiseFGSM, SingleStepCheck
from isthmus.attacks.inputs.health.single_step import check_single_step
from isthmus.data import Linf
from isthmus.training import adversarial, cross_entropy


class Wave(nn.Module):
    """Right at the input and one whole eps away, wrong between: what training against single steps
    can lead to.
    """

    def __init__(self, start=0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(start))

    def forward(self, x):
        height = (
            torch.cos(2 * torch.pi * (x.mean((1, 2, 3)) - 0.5) / 0.1 + 0.5) + 0.2 + 0 * self.weight
        )
        return torch.stack([height, -height], 1)


def gray(n):
    return Data(torch.full((n, 1, 4, 4), 0.5), torch.zeros(n, dtype=torch.long), 2)


def test_a_network_that_only_single_steps_fail_to_fool_is_refused():
    refused(
        lambda: check_single_step(Wave(), gray(30), Linf(0.1)),
        "catastrophic",
        "0.0",
        "100.0",
        "30 samples",
    )


def test_a_few_samples_accuse_nobody():
    single, many = check_single_step(Wave(), gray(4), Linf(0.1))
    assert (single, many) == (1.0, 0.0)


def test_an_honest_network_passes():
    x = data(60, seed=5).floats()
    net = network("batchnorm")
    with torch.no_grad():
        some = Data(x, net(x).argmax(1), 4)
    single, many = check_single_step(net, some, Linf(0.02))
    assert 0.3 < many <= single < 1 and many.n == 60


@pytest.mark.parametrize(
    "wrap", [lambda: Wave(), lambda: Bezier(Wave(), Wave(1.0))], ids=["network", "curve"]
)
def test_training_that_has_collapsed_stops_when_the_check_is_due(wrap):
    steps = []

    def loss(module, x, y):
        steps.append(len(x))
        return cross_entropy(module, x, y)

    check = SingleStepCheck(gray(30), [Linf(0.1)], every=4)
    refused(lambda: fit(wrap(), gray(30), loss, steps=20, lr=0.1, after_step=check), "catastrophic")
    assert len(steps) == 4


@pytest.mark.parametrize("kind", sorted(ZOO.keys() - {"batchnorm1d"}))
def test_the_check_leaves_training_as_it_is(kind):
    """With and without: the same weights, buffers and modes, bit for bit."""
    states = []
    for check in (None, SingleStepCheck(data(8, seed=3), [Linf(0.01)], every=2, steps=2)):
        net, ball = network(kind), Linf(0.01)
        fit(
            net,
            data(),
            adversarial(NoiseFGSM(ball)),
            steps=4,
            lr=0.01,
            after_step=check,
            precision="fp32",
        )
        states.append(copy.deepcopy(net.state_dict()))
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())


def test_a_robust_curve_is_checked_in_its_middle():
    curve, ball = Bezier(*pair("batchnorm")), Linf(0.01)
    before = {k: v.clone() for k, v in curve.state_dict().items()}
    SingleStepCheck(data(40), [ball], every=1)(curve)
    assert all(torch.equal(v, before[k]) for k, v in curve.state_dict().items())


def test_a_check_that_is_never_due_is_refused():
    refused(lambda: SingleStepCheck(data(8), [Linf(0.1)], every=0), "every = 0")
