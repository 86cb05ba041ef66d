"""Statistics that are moved as recalibration moves those of another network: laws."""

import copy

import pytest
import torch
from torch import nn

from isthmus import Data, recalibrate
from isthmus.models.batchnorm import layers_with_statistics
from isthmus.models.shift import Shift


def network(dtype=torch.float32):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2)
    )
    for layer in layers_with_statistics(net):
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 2)
    return net.to(dtype).eval()


def images():
    x = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return Data(x, torch.arange(32) % 2, 2)


def statistics(net):
    return [(layer.running_mean, layer.running_var) for layer in layers_with_statistics(net)]


def test_a_network_that_was_recalibrated_and_moved_is_as_it_was_received():
    net = network()
    again = recalibrate(copy.deepcopy(net), images())
    assert not torch.allclose(statistics(again)[0][0], statistics(net)[0][0], atol=0.01)
    Shift.between(net, again).apply(again)
    for before, after in zip(statistics(net), statistics(again), strict=True):
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(before, after, strict=True))


def test_no_shift_leaves_statistics_as_they_are_to_the_bit():
    net = network()
    tiny = statistics(net)[0][1]
    tiny.fill_(1e-7)
    same = copy.deepcopy(net)
    Shift.between(net, copy.deepcopy(net)).apply(same)
    for before, after in zip(statistics(net), statistics(same), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_channel_that_died_leaves_statistics_finite(dtype):
    """Its variance is zero on the samples, and a factor of it is beyond half precision."""
    net = network(dtype)
    dead = copy.deepcopy(net)
    statistics(dead)[0][1][0] = 0.0
    moved = Shift.between(net, dead).apply(copy.deepcopy(dead))
    for mean, variance in statistics(moved):
        assert mean.dtype == variance.dtype == dtype
        assert mean.isfinite().all() and variance.isfinite().all() and (variance >= 0).all()
    whole, again = statistics(net)[0][1], statistics(moved)[0][1]
    assert torch.allclose(whole, again, rtol=0.02)


def test_statistics_that_are_infinite_stay_so():
    """A training that has diverged is told by them."""
    net = network()
    statistics(net)[0][1][0] = torch.inf
    Shift.between(network(), network()).apply(net)
    assert statistics(net)[0][1].isinf().tolist() == [True, False, False]
