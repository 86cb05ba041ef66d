"""Attacks that run another one under other conditions."""

import torch
from torch import nn

from isthmus.attacks import BPDA, PGD, InFloat64, NoiseFGSM, Square
from isthmus.data import Linf

BALL = Linf(0.1)


def test_in_float64_attacks_a_network_whose_hook_has_just_computed_a_weight():
    torch.manual_seed(0)
    inner = nn.utils.weight_norm(nn.Linear(16, 3))
    network = nn.Sequential(nn.Flatten(), inner).eval()
    x, y = torch.rand(4, 1, 4, 4), torch.tensor([0, 1, 2, 0])
    network(x)  # what the hook leaves cannot be copied deeply
    plain = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double()
    with torch.no_grad():
        plain[1].weight.copy_(inner.weight)
        plain[1].bias.copy_(inner.bias)
    attack = PGD(BALL, steps=3)
    expected = attack(plain, x.double(), y).float().clamp(0, 1)
    torch.testing.assert_close(InFloat64(attack)(network, x, y), expected)


def test_it_draws_where_the_attack_draws():
    for attack in (PGD(BALL, random_start=False), NoiseFGSM(BALL), Square(BALL)):
        assert InFloat64(attack).random == BPDA(attack, ("0",)).random == attack.random
