"""A setting is chosen by held-out accuracy alone: the strongest that costs little of it."""

import copy
from dataclasses import dataclass

import pytest
import torch
from support.refusals import refused
from support.victims import TRAINING, samples, victim
from torch import nn

from isthmus import Data
from isthmus.data import hold_out
from isthmus.defenses import FineTune, Tuned
from isthmus.defenses.rivals.tuned import strongest_within
from isthmus.metrics import Accuracy
from isthmus.types import BadInput

SHARES = [1.0, 0.97, 0.99, 0.8]


class Fixed(nn.Module):
    """Answers rightly, by the image's first pixel, but for a share of the images."""

    def __init__(self, right: float) -> None:
        super().__init__()
        self.right = nn.Parameter(torch.tensor(right))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        label, rank = (x[:, 0, 0, 0] * 4).round().long(), x[:, 0, 0, 1]
        return nn.functional.one_hot(torch.where(rank < self.right, label, 3 - label), 4).float()


@dataclass(frozen=True)
class Returning:
    """A defense that returns a network of its own, or refuses."""

    right: float

    def __call__(self, tampered, bonafide):
        if self.right < 0:
            raise BadInput("nothing", expected="something", fix="do not")
        return Fixed(self.right)


def ranked(n: int = 1000) -> Data:
    """Images whose first pixel is their label and whose second is their rank among all."""
    x = torch.zeros(n, 1, 2, 2)
    y = torch.arange(n) % 4
    x[:, 0, 0, 0], x[:, 0, 0, 1] = y / 4, torch.arange(n) / n
    return Data(x, y, 4)


@pytest.mark.parametrize("tolerance", [0.0, 0.015, 0.04, 0.3])
def test_the_choice_is_the_last_setting_within_the_tolerance_of_the_best(tolerance):
    data = ranked()
    held_out = hold_out(data, 0.2, 0)[1]
    accuracies = [Accuracy(held_out)(Fixed(share)) for share in SHARES]
    expected = max(i for i, a in enumerate(accuracies) if max(accuracies) - a <= tolerance)
    tried = Tuned(Returning, SHARES, tolerance).attempt(Fixed(1.0), data)
    assert tried.setting == SHARES[expected] and tried.model.right.item() == pytest.approx(
        SHARES[expected]
    )
    assert tried.accuracies == dict(enumerate(accuracies))


def test_the_held_out_samples_train_nothing():
    seen = []

    def make(setting):
        return lambda net, data: seen.append(data) or copy.deepcopy(net)

    data = ranked()
    Tuned(make, [1, 2], 0.0, seed=3)(Fixed(1.0), data)
    fitted, held_out = hold_out(data, 0.2, 3)
    assert all(torch.equal(part.x, fitted.x) for part in seen) and len(seen) == 2
    assert not {*fitted.x[:, 0, 0, 1].tolist()} & {*held_out.x[:, 0, 0, 1].tolist()}


def test_settings_that_are_refused_are_passed_over_unless_all_are():
    tried = Tuned(Returning, [-1, 0.9, -1], 0.0).attempt(Fixed(1.0), ranked())
    assert tried.setting == 0.9 and list(tried.accuracies) == [1]
    refused(lambda: Tuned(Returning, [-1, -2], 0.0)(Fixed(1.0), ranked()), "nothing")


def test_a_tuned_defense_is_one_of_its_settings_and_says_what_all_of_them_cost():
    tuned = Tuned(lambda lr: FineTune(TRAINING.replace(lr=lr)), [0.001, 0.01], 1 - 1e-9)
    twin = FineTune(TRAINING.replace(lr=0.01))(victim(0), samples())
    found = tuned(victim(0), samples())
    assert all(torch.equal(v, found.state_dict()[k]) for k, v in twin.state_dict().items())
    assert tuned.gradients == 2 * TRAINING.steps


@pytest.mark.parametrize("settings, tolerance", [([], 0.1), ([1], 1.0), ([1], -0.1)])
def test_nothing_to_choose_from_is_refused(settings, tolerance):
    refused(lambda: Tuned(Returning, settings, tolerance), "settings")


def test_ties_go_to_the_strongest():
    assert strongest_within([0.5, 0.9, 0.9, 0.8], 0.0) == 2
