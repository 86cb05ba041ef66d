"""The group lasso over channels: against loops, at the knee, and that it empties channels."""

import copy

import pytest
import torch
from support.refusals import refused
from support.rows import samples
from torch import nn

from isthmus import Accuracy, Bezier, cross_entropy, expected_over_t, fit
from isthmus.compression import quantize, zero_channels
from isthmus.models import mlp, small_cnn
from isthmus.training import channel_lasso


def make(seed=0):
    torch.manual_seed(seed)
    return small_cnn(3, 1, 4).eval()


def naive(net, strength, knee):
    total = 0.0
    for part in net.modules():
        if isinstance(part, nn.Conv2d):
            for weight in part.weight:
                norm = float(weight.detach().square().sum()) ** 0.5
                total += norm**2 / (2 * knee) if norm < knee else norm - knee / 2
    return strength * total


@pytest.mark.parametrize("knee", [0.0, 0.3, 0.6, 5.0])
def test_it_adds_the_norms_of_all_filters(knee):
    net, data = make(), samples()
    value = channel_lasso(cross_entropy, 0.7, knee)(net, data.x, data.y).item()
    expected = cross_entropy(net, data.x, data.y).item() + naive(net, 0.7, knee)
    assert value == pytest.approx(expected, rel=1e-4)


def test_filters_of_transposed_convolutions_are_those_of_the_channels_they_make():
    net = nn.Sequential(nn.ConvTranspose2d(2, 3, 2, bias=False), nn.Flatten())
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([0.0, 1.0, 2.0]).view(1, 3, 1, 1).expand(2, 3, 2, 2))
    loss = channel_lasso(lambda *_: torch.zeros(()), 1.0)
    value = loss(net, torch.zeros(1, 2, 1, 1), torch.tensor([0])).item()
    assert value == pytest.approx((1 + 2) * 8**0.5)


def test_the_gradient_meets_at_the_knee_and_a_filter_of_zeros_has_none():
    net = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.Flatten())
    gradients = []
    for size in (0.0, 0.5 - 1e-4, 0.5 + 1e-4, 2.0):
        net.zero_grad()
        nn.init.constant_(net[0].weight, size)
        loss = channel_lasso(lambda *_: torch.zeros(()), 3.0, knee=0.5)
        loss(net, torch.zeros(1, 1, 1, 1), torch.tensor([0])).backward()
        gradients.append(float(net[0].weight.grad[0]))
    assert gradients == pytest.approx([0.0, 3.0, 3.0, 3.0], abs=1e-2)


def without_normalization():
    """Where BatchNorm follows, a small filter does what a large one does, and may grow again."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(8 * 36, 3)),
    )


def test_it_empties_channels_of_a_ternary_network():
    data, shares = samples(), {}
    options = {"steps": 150, "lr": 0.05, "batch_size": 40, "precision": "fp32"}
    for strength in (None, 0.03):
        loss = cross_entropy if strength is None else channel_lasso(cross_entropy, strength)
        net = without_normalization()
        small = quantize(net, data, "ternary", layers="all", loss=loss, **options)
        shares[strength] = float(zero_channels(small.model))
        assert Accuracy(data)(small.model) > 0.9
    assert shares[0.03] > shares[None] + 0.2


def test_on_a_curve_it_pulls_the_weights_of_the_point():
    one, other = make(0), make(1)
    curve = Bezier(one, other)
    loss = channel_lasso(lambda *_: torch.zeros(()), 1.0)
    data = samples(20)
    point = curve.export(0.5)
    found = loss(curve.at(0.5), data.x, data.y).item()
    assert found == pytest.approx(naive(point, 1.0, 1e-30), rel=1e-5)
    options = {"steps": 3, "lr": 0.01, "precision": "fp32"}
    before = copy.deepcopy(curve.state_dict())
    fit(curve, data, expected_over_t(loss), **options)
    assert any(not torch.equal(before[k], v) for k, v in curve.state_dict().items())


def test_bad_input_is_refused():
    for strength, knee in ((0.0, 0.0), (-1.0, 0.0), (1.0, -0.1), (float("inf"), 0.0)):
        refused(lambda s=strength, k=knee: channel_lasso(cross_entropy, s, k), "strength")
    data = samples()
    loss = channel_lasso(cross_entropy, 1.0)
    refused(lambda: loss(mlp(3, 1, 6, (8,)), data.x, data.y), "convolutions")
