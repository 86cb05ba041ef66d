"""The statistics of networks between two ends: near an end they are that end's own."""

import pytest
import torch
from support.networks import data, pair
from torch import nn

from isthmus import Bezier, Data
from isthmus.curves import PathNetworks, network_at
from isthmus.defenses import PermutedCopy
from isthmus.models.batchnorm import recalibrate

pytestmark = pytest.mark.numeric


def statistics(net):
    return [
        (layer.running_mean.double(), layer.running_var.double())
        for layer in net.modules()
        if isinstance(layer, nn.modules.batchnorm._NormBase)
    ]


@pytest.fixture
def curve():
    """Ends whose own statistics are those of images twice as bright, as augmentation might."""
    ends = pair("batchnorm")
    bright = data(40)
    for end in ends:
        recalibrate(end, bright.with_floats((2 * bright.x).clamp(0, 1), bright.y))
    return Bezier(*ends)


@pytest.mark.parametrize("t", [0.1, 0.5, 0.8])
def test_what_recalibration_does_to_the_ends_is_taken_back_in_proportion(curve, t):
    def recalibrated(at):
        return statistics(recalibrate(curve.export(at), data(24)))

    first, second = (statistics(curve.export(end)) for end in (0.0, 1.0))
    layers = zip(first, recalibrated(0.0), second, recalibrated(1.0), recalibrated(t), strict=True)
    corrected = statistics(network_at(curve, t, data(24)))
    for (a, a_again, b, b_again, found), (mean, variance) in zip(layers, corrected, strict=True):
        shift = (1 - t) * (a[0] - a_again[0]) + t * (b[0] - b_again[0])
        factor = (a[1] / a_again[1]) ** (1 - t) * (b[1] / b_again[1]) ** t
        assert torch.allclose(mean, found[0] + shift, atol=1e-5)
        assert torch.allclose(variance, found[1] * factor, rtol=2e-2)  # but for the layers' eps


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_the_ends_are_limits(curve, end):
    x = data(8).x
    near = network_at(curve, abs(end - 1e-6), data(24))
    assert torch.allclose(near(x), curve.export(end)(x), atol=1e-3)
    assert torch.equal(network_at(curve, end, data(24))(x), curve.export(end)(x))


def test_the_networks_of_a_path_are_those_of_the_points(curve):
    networks, x = PathNetworks(curve, data(24)), data(8).x
    for t in (0.0, 0.3, 0.3, 1.0):
        for ends in ("own", "recalibrated"):
            point = network_at(curve, t, data(24), ends=ends)
            assert torch.equal(networks.at(t, ends=ends)(x), point(x))
    assert networks.recalibrations == 3


def test_a_path_to_a_permuted_copy_ends_where_it_begins(curve):
    received = curve.export(0.0)
    line = Bezier(received, PermutedCopy("random")(received, data(24)), 0)
    x = data(8).x
    assert torch.allclose(network_at(line, 1 - 1e-6, data(24))(x), received(x), atol=1e-3)


def test_a_channel_that_never_varies_stays_finite():
    nets = [
        nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2)).eval()
        for _ in range(2)
    ]
    for net in nets:
        nn.init.zeros_(net[0].weight)
    samples = Data(torch.rand(8, 1, 2, 2), torch.arange(8) % 2, 2)
    middle = network_at(Bezier(*nets), 0.5, samples)
    assert torch.isfinite(middle(samples.x)).all() and (middle[1].running_var >= 0).all()
