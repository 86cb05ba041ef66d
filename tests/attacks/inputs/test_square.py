"""Square: it needs no gradient."""

import pytest
import torch
from support.attacked import right
from support.refusals import refused
from torch import nn

from isthmus.attacks import PGD, Square
from isthmus.data import L2, Linf

pytestmark = pytest.mark.numeric


def test_square_fools_a_network_that_has_no_gradient(net, samples):
    class Steps(nn.Module):
        def forward(self, x):
            with torch.no_grad():
                return net((x * 16).round() / 16)

    x, y = samples
    refused(lambda: PGD(Linf(0.2))(Steps(), x, y), "no gradient")
    for ball in (Linf(0.2), L2(3.0)):
        assert (
            right(Steps(), Square(ball, queries=150)(Steps(), x, y), y).sum()
            < right(Steps(), x, y).sum() / 2
        )
