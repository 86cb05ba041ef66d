"""The laws that all defenses share."""

import copy

import pytest
import torch
from victims import TRAINING, samples, victim

from isthmus import recalibrate
from isthmus.defenses import standard

CASES = list(standard(victim(1), TRAINING).items())


@pytest.mark.parametrize("defense", [d for _, d in CASES], ids=[n for n, _ in CASES])
def test_every_defense_returns_another_ordinary_network_and_leaves_the_tampered_one(defense):
    tampered = victim(0)
    before = copy.deepcopy(tampered.state_dict())
    repaired = defense(tampered, samples())
    after = tampered.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())
    assert repaired.state_dict().keys() == before.keys() and not repaired.training
    assert any(not torch.equal(v, before[k]) for k, v in repaired.state_dict().items())
    twin = recalibrate(copy.deepcopy(repaired), samples())  # law 20: its BatchNorm is that of the bonafide data
    assert all(torch.equal(v, repaired.state_dict()[k]) for k, v in twin.state_dict().items())
    again = defense(victim(0), samples())
    assert all(torch.equal(v, repaired.state_dict()[k]) for k, v in again.state_dict().items()), "same seed, same net"
