"""Networks with random answers are recognized, and asked until the interval is known."""

import random

import numpy as np
import pytest
import torch
from support.attacked import answered
from support.networks import ZOO, network
from torch import nn

from isthmus.models.forward import device_of
from isthmus.models.noise import (
    DRAWS,
    drawn_logits,
    draws_needed,
    is_random,
    mean_of_draws,
    watching_draws,
)

X = answered(12).floats()


class Noisy(nn.Module):
    """A network with noise at its input, from the generator of torch, numpy, Python or its own."""

    def __init__(self, source="torch", size=0.2):
        super().__init__()
        self.net, self.size = network("batchnorm"), size
        own = torch.Generator().manual_seed(0)
        self.draw = {
            "torch": lambda: torch.randn(()),
            "numpy": lambda: np.random.randn(),
            "python": random.random,
            "own": lambda: torch.randn((), generator=own),
        }[source]

    def forward(self, x):
        return self.net(x + self.size * float(self.draw()))


@pytest.mark.parametrize("kind", ZOO)
def test_no_network_of_the_zoo_is_random(kind):
    net = network(kind)
    with watching_draws(device_of(net)) as drawing, torch.no_grad():
        net(X)
    assert not is_random(net, X) and not drawing.drew


@pytest.mark.parametrize("source", ["torch", "numpy", "python", "own"])
def test_a_random_network_is_recognized_and_no_draw_of_the_caller_is_used(source):
    net = Noisy(source)
    before = torch.get_rng_state()
    assert is_random(net, X)
    assert torch.equal(torch.get_rng_state(), before)
    with watching_draws(torch.device("cpu")) as drawing:
        net(X)
    assert drawing.drew == (source != "own")
    assert draws_needed(net, drew=drawing.drew) == DRAWS, "what is_random said is remembered"
    assert draws_needed(network("batchnorm"), drew=False) == 1


def test_the_mean_over_draws_is_that_of_the_runs():
    numbers = iter([torch.tensor(2.0), torch.tensor(4.0), torch.tensor(9.0)])
    assert mean_of_draws(lambda: next(numbers), 3) == 5


def test_more_draws_leave_fewer_samples_undecided():
    net, y = Noisy(size=0.3), answered(12).y
    torch.manual_seed(0)
    few, many = drawn_logits(net, X, y, 4), drawn_logits(net, X, y, 400)
    assert many.logits.shape == few.logits.shape == (12, 4)
    assert many.undecided.sum() <= few.undecided.sum()
    again = drawn_logits(net, X, y, 400)
    decided = ~(many.undecided | again.undecided)
    assert torch.equal(many.logits.argmax(1)[decided], again.logits.argmax(1)[decided])
