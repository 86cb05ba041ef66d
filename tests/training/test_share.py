"""The share of a budget that a loss can ask for, in one go and resumed."""

import pytest
import torch
from torch import nn

from isthmus import Data, Linf, fit
from isthmus.certification import Interval, certified
from isthmus.training import cross_entropy
from isthmus.training.share import budget_share

DATA = Data(
    torch.rand(12, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 2, 2
)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 2))


class Noting:
    """The cross-entropy, with a note of the share at every call."""

    def __init__(self):
        self.shares = []

    def __call__(self, model, x, y):
        self.shares.append(budget_share())
        return cross_entropy(model, x, y)


def test_the_share_goes_from_0_to_1_and_is_1_outside():
    loss = Noting()
    fit(network(), DATA, loss, steps=5, lr=0.1, batch_size=4)
    assert loss.shares == pytest.approx([0, 0.2, 0.4, 0.6, 0.8]) and budget_share() == 1.0


class Stop(Exception):
    pass


class Interrupt:
    """Stops training at the 13th step that it sees."""

    calls = 0

    def __call__(self, module):
        self.calls += 1
        if self.calls == 13:
            raise Stop

    def __repr__(self):
        return "interrupt"  # what a run is recognized by


def test_a_ramp_resumed_is_the_ramp_uninterrupted(tmp_path):
    loss = certified(Interval(), Linf(0.1), 0.75, ramp=(0.2, 0.8))
    options = {"steps": 20, "lr": 0.1, "batch_size": 4, "precision": "fp32"}
    whole, resumed = network(), network()
    fit(whole, DATA, loss, **options)
    state = {"checkpoint": tmp_path / "state", "checkpoint_every": 5, "after_step": Interrupt()}
    with pytest.raises(Stop):
        fit(network(), DATA, loss, **options, **state)
    fit(resumed, DATA, loss, **options, **state)
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)
