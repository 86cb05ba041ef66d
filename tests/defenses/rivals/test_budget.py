"""Budgets are counted in gradient evaluations: every defense calls backward as often as it says,
and never more.
"""

import pytest
import torch
from support.refusals import refused
from support.victims import samples, victim
from torch import nn

from isthmus.defenses import ANP, FTSAM, IBAU, NAD, FinePrune, FineTune
from isthmus.training import Training

STEPS = 40
TRAINING = Training(steps=STEPS, lr=0.01, batch_size=16, precision="fp32")
TRAINED = [FineTune, FinePrune, FTSAM, ANP, NAD]


class Counting(nn.Module):
    """A network that counts the forward passes of whole batches that record gradients, in all of
    its copies.
    """

    passes = 0

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        Counting.passes += torch.is_grad_enabled()
        return self.net(x)


@pytest.mark.parametrize("make", TRAINED)
def test_a_defense_spends_its_budget_and_no_more(make):
    Counting.passes = 0
    defense = make(TRAINING)
    defense(Counting(victim(0)), samples())
    assert STEPS - 3 < Counting.passes <= STEPS == defense.gradients


def test_unlearning_spends_its_budget_of_forward_and_of_further_passes():
    """Three recorded forward passes a pair of steps, inner 1 and outer 2, and five more derivatives
    through them.
    """
    Counting.passes = 0
    IBAU(TRAINING)(Counting(victim(0)), samples())
    assert Counting.passes == STEPS // 8 * 3


@pytest.mark.parametrize("make, least", [(FTSAM, 2), (NAD, 2), (ANP, 3), (IBAU, 8)])
def test_a_budget_below_one_step_is_refused(make, least):
    refused(
        lambda: make(TRAINING.replace(steps=least - 1))(victim(0), samples()), f"{least} or more"
    )
