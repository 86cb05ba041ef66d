"""FT-SAM against a naive twin that perturbs the weights in place, steps, and puts them back."""

import copy

import pytest
import torch
import torch.nn.functional as F
from support.refusals import refused
from torch import nn

from isthmus import Data
from isthmus.defenses import FTSAM
from isthmus.training import Training
from isthmus.training.batches import batch_indices
from isthmus.training.schedules import constant

pytestmark = pytest.mark.numeric

TRAINING = Training(
    steps=6, lr=0.1, batch_size=8, momentum=0.0, precision="fp32", schedule=constant
)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(9, 5), nn.Tanh(), nn.Linear(5, 3)).eval()


def images(n=24):
    g = torch.Generator().manual_seed(0)
    return Data(torch.rand(n, 1, 3, 3, generator=g), torch.arange(n) % 3, 3)


def naive(net, data, rho, adaptive):
    net = copy.deepcopy(net)
    for step in range(TRAINING.steps // 2):
        index = batch_indices(len(data), TRAINING.batch_size, step, 0)
        weights, were = list(net.parameters()), [p.detach().clone() for p in net.parameters()]
        grads = torch.autograd.grad(F.cross_entropy(net(data.x[index]), data.y[index]), weights)
        sizes = [w.abs() if adaptive else torch.ones_like(w) for w in were]
        length = (
            sum(float((s * g).square().sum()) for s, g in zip(sizes, grads, strict=True)) ** 0.5
        )
        with torch.no_grad():
            for w, s, g in zip(weights, sizes, grads, strict=True):
                w += rho * s * s * g / length
        grads = torch.autograd.grad(F.cross_entropy(net(data.x[index]), data.y[index]), weights)
        with torch.no_grad():
            for w, was, g in zip(weights, were, grads, strict=True):
                w.copy_(was - TRAINING.lr * g)
    return net


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("rho", [0.1, 2.0])
def test_its_steps_are_those_of_the_two_passes_written_out(rho, adaptive):
    found = FTSAM(TRAINING, rho, adaptive)(network(), images())
    for name, value in naive(network(), images(), rho, adaptive).state_dict().items():
        assert torch.allclose(found.state_dict()[name], value, atol=1e-5), name


def test_a_radius_of_zero_is_refused():
    refused(lambda: FTSAM(TRAINING, rho=0.0)(network(), images()), "rho")
