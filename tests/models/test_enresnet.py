"""Ensembles of noisy residual networks, and the loss they are trained with."""

import math

import pytest
import torch
from support.refusals import refused
from torch import nn

from isthmus import Accuracy, Data, MeanLoss, RobustAccuracy, cross_entropy, fit
from isthmus.attacks import PGD
from isthmus.compression import baked, quantize, zero_channels, zero_weights
from isthmus.data import Linf
from isthmus.models import enresnet, preact_resnet, small_cnn
from isthmus.models.noise import DRAWS
from isthmus.training import adversarial, trade_off


def test_without_noise_it_is_the_mean_of_ordinary_networks():
    torch.manual_seed(0)
    net, x = enresnet(3, 8, 3, 1, 4, noise=0.0).eval(), torch.rand(5, 1, 8, 8)
    answers = torch.stack([member(x) for member in net.members])
    assert torch.equal(net(x), net(x)) and torch.allclose(net(x), answers.mean(0))
    assert not torch.allclose(answers[0], answers[1])


def test_noise_is_in_units_of_each_samples_own_deviation():
    torch.manual_seed(0)
    member = enresnet(1, 8, 3, 1, 4, noise=0.1).members[0].eval()
    h = torch.randn(3, 16, 40, 40) * torch.tensor([1e-3, 1.0, 1e3]).view(-1, 1, 1, 1)
    noise = (member.disturbed(h) - h).double() / (0.1 * h.double().std((1, 2, 3), keepdim=True))
    assert noise.mean((1, 2, 3)).abs().max() < 0.03  # five deviations of the mean
    assert (noise.std((1, 2, 3)) - 1).abs().max() < 0.03


def test_the_same_seed_gives_the_same_answers():
    torch.manual_seed(0)
    net, x = enresnet(2, 8, 3, 1, 4).eval(), torch.rand(5, 1, 8, 8)
    answers = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        answers.append(net(x))
    assert torch.equal(answers[0], answers[1]) and not torch.equal(answers[0], answers[2])


def test_it_trains_on_the_trade_off_and_is_quantized():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(60) % 3
    x = 0.5 * torch.rand(60, 1, 6, 6, generator=generator)
    x[torch.arange(60), 0, 2 * y] += 0.5
    data = Data(x, y, 3)
    torch.manual_seed(0)
    net = enresnet(1, 8, 3, 1, 4)
    loss = trade_off(PGD(Linf(0.05), steps=1), 1.0, 8.0)
    options = {"steps": 12, "lr": 0.02, "batch_size": 30, "precision": "fp32"}
    small = quantize(net, data, "ternary", loss=loss, **options)
    assert 0.1 < zero_weights(small.model) < 0.9
    channels = [
        row.flatten().tolist()
        for part in baked(small.model).modules()
        if isinstance(part, nn.Conv2d)
        for row in part.weight.detach()
    ]
    empty = sum(not any(row) for row in channels)
    assert zero_channels(small.model) == pytest.approx(empty / len(channels))
    fit(small.model, data, loss, **options)


def images(n=24):
    generator = torch.Generator().manual_seed(0)
    return Data(torch.rand(n, 1, 6, 6, generator=generator), torch.arange(n) % 3, 3)


def quantized(data):
    torch.manual_seed(0)
    return quantize(enresnet(1, 8, 3, 1, 4, noise=0.5), data, "ternary").model


@pytest.mark.parametrize("kind", ["float", "quantized"])
def test_an_attack_averages_over_the_draws_of_a_noisy_network_by_itself(kind):
    data = images()
    torch.manual_seed(0)
    net = quantized(data) if kind == "quantized" else enresnet(1, 8, 3, 1, 4, noise=0.5).eval()
    rate = RobustAccuracy(data, PGD(Linf(0.02), steps=2))(net)
    assert rate.health.draws > 1 and rate.health.undecided < 0.5
    passes = []
    net.members[0].stem.register_forward_hook(lambda *_: passes.append(1))
    PGD(Linf(0.02), steps=1, returns="last")(net, data.x, data.y)
    assert len(passes) >= 1 + DRAWS  # one that tells, and as many as are averaged


class Drawn(nn.Module):
    """A network that answers anew each time, whatever it is shown."""

    def forward(self, x):
        return torch.randn(len(x), 3) + x.flatten(1)[:, :3] / 100


def test_samples_are_undecided_where_the_draws_leave_them_open():
    attack = PGD(Linf(0.02), steps=1)
    assert RobustAccuracy(images(), attack)(Drawn()).health.undecided > 0.5
    torch.manual_seed(0)
    sure = RobustAccuracy(images(), attack)(enresnet(1, 8, 3, 1, 4, noise=0.0).eval()).health
    assert (sure.draws, sure.undecided) == (1, 0)


def test_a_noisy_network_that_is_measured_twice_says_the_same():
    data = images()
    torch.manual_seed(0)
    net = enresnet(2, 8, 3, 1, 4, noise=0.5).eval()
    for metric in (Accuracy(data), MeanLoss(data)):
        first = metric(net)
        torch.rand(3)
        assert metric(net) == first
    before = torch.get_rng_state()
    MeanLoss(data)(net)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_trade_off_is_the_weighted_sum_of_its_parts():
    torch.manual_seed(0)
    net, x = enresnet(1, 8, 3, 1, 4, noise=0.0).eval(), torch.rand(6, 1, 8, 8)
    y, attack = torch.arange(6) % 3, PGD(Linf(0.1), steps=2, random_start=False)
    parts = cross_entropy(net, x, y), adversarial(attack)(net, x, y)
    for clean, attacked in ((0.5, 0.5), (1.0, 8.0), (0.0, 1.0)):
        value = trade_off(attack, clean, attacked)(net, x, y).item()
        expected = clean * parts[0].item() + attacked * parts[1].item()
        assert value == pytest.approx(expected, rel=1e-5)


def test_one_number_is_not_disturbed():
    """It has no standard deviation."""
    torch.manual_seed(0)
    net = enresnet(1, depth=8, width=1, channels=1).eval()
    assert net(torch.rand(2, 1, 1, 1)).isfinite().all()


def test_bad_input_is_refused():
    refused(lambda: enresnet(0), "members")
    refused(lambda: enresnet(1, 9), "depth 9")
    for noise in (-0.1, math.inf, math.nan):
        refused(lambda noise=noise: enresnet(noise=noise), "noise")
    for odd in (0, -1, 1.5, 8.0, "8"):
        refused(lambda odd=odd: enresnet(depth=odd), f"depth {odd!r}")
        for name in ("members", "width", "classes", "channels"):
            refused(lambda name=name, odd=odd: enresnet(**{name: odd}), f"{name} = {odd!r}")
    for make in (preact_resnet, small_cnn):
        refused(lambda make=make: make(width=0), "width = 0")
        refused(lambda make=make: make(classes=0), "classes = 0")
    refused(lambda: trade_off(PGD(Linf(0.1)), attacked=0.0), "weights")
