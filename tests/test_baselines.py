"""Baselines: their definitions against naive twins, and the laws that all of them share."""

import copy

import pytest
import torch
from torch import nn

from isthmus import Data, baselines, recalibrate
from isthmus.baselines import FinePrune, FineTune, FromScratch, GaussianNoise, StraightAverage, standard
from isthmus.types import BadInput

TRAINING = {"steps": 3, "lr": 0.05, "batch_size": 16, "precision": "fp32"}


@pytest.fixture
def data():
    g = torch.Generator().manual_seed(0)
    return Data(torch.rand(40, 1, 6, 6, generator=g), torch.arange(40) % 3, 3)


def network(seed):
    torch.manual_seed(seed)
    convs = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()]
    return nn.Sequential(*convs, nn.Flatten(), nn.Linear(128, 3)).eval()


CASES = list(standard(network(1), TRAINING).items())


@pytest.mark.parametrize("defense", [d for _, d in CASES], ids=[n for n, _ in CASES])
def test_every_defense_returns_another_ordinary_network_and_leaves_the_tampered_one(defense, data):
    tampered = network(0)
    before = copy.deepcopy(tampered.state_dict())
    repaired = defense(tampered, data)
    after = tampered.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())
    assert repaired.state_dict().keys() == before.keys() and not repaired.training
    assert any(not torch.equal(v, before[k]) for k, v in repaired.state_dict().items())
    twin = recalibrate(copy.deepcopy(repaired), data)  # law 20: its BatchNorm is that of the bonafide data
    assert all(torch.equal(v, repaired.state_dict()[k]) for k, v in twin.state_dict().items())
    again = defense(network(0), data)
    assert all(torch.equal(v, repaired.state_dict()[k]) for k, v in again.state_dict().items()), "same seed, same net"


@pytest.mark.parametrize("variant, centre, share", [("between", 0.5, 0.5), ("around", 0.0, 1.0)])
def test_noise_has_the_mean_and_deviation_of_its_definition(variant, centre, share, data):
    """Law 20: over many draws, elementwise."""
    a, b = network(0), network(1)
    draws = torch.stack([GaussianNoise(b, variant, seed=s)(a, data)[0].weight.flatten() for s in range(400)])
    w1, w2 = a[0].weight.flatten(), b[0].weight.flatten()
    sigma = share * (w2 - w1).abs()
    assert ((draws.mean(0) - torch.lerp(w1, w2, centre)).abs() < 4.5 * sigma / 20 + 1e-6).all()
    assert ((draws.std(0) / sigma - 1).abs() < 0.2).all()


def test_the_average_is_the_average(data):
    a, b = network(0), network(1)
    assert torch.allclose(StraightAverage(b)(a, data)[3].weight, (a[3].weight + b[3].weight) / 2)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5])
def test_pruning_by_norm_zeroes_the_smallest_filters_and_they_stay_zero(share, data):
    tampered = network(0)
    pruned = FinePrune(TRAINING, share, by="norm")(tampered, data)
    for old, new in zip(tampered, pruned, strict=True):
        if isinstance(old, nn.Conv2d):
            norms = old.weight.abs().flatten(1).sum(1)
            expected = set(norms.argsort()[: int(share * len(norms))].tolist())
            zero = (new.weight.flatten(1) == 0).all(1) & (new.bias == 0)
            assert set(zero.nonzero().flatten().tolist()) == expected


def test_pruning_by_dormancy_zeroes_the_channels_that_bonafide_samples_use_least(data):
    tampered = network(0)
    with torch.no_grad():
        activity = tampered[:4](data.x).abs().mean((0, 2, 3))
    pruned = FinePrune(TRAINING, 0.5, by="dormancy")(tampered, data)
    zero = (pruned[3].weight.flatten(1) == 0).all(1)
    assert set(zero.nonzero().flatten().tolist()) == set(activity.argsort()[:4].tolist())
    assert not (pruned[0].weight.flatten(1) == 0).all(1).any(), "only the last convolution is pruned"


def test_from_scratch_forgets_the_tampered_network(data):
    one, two = (FromScratch(TRAINING)(network(seed), data) for seed in (0, 5))
    assert all(torch.equal(v, two.state_dict()[k]) for k, v in one.state_dict().items())


def test_fine_tuning_takes_the_options_of_fit(data):
    slow, fast = (FineTune({**TRAINING, "lr": lr})(network(0), data) for lr in (1e-6, 0.1))
    assert (
        (slow[0].weight - network(0)[0].weight).abs().max() < 1e-4 < (fast[0].weight - network(0)[0].weight).abs().max()
    )


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.linear = nn.Linear(36, 3)

    def forward(self, x):
        return self.linear(self.scale * x.flatten(1))


@pytest.mark.parametrize("make, network, says", [
    (lambda: FromScratch(TRAINING), Odd(), "reset_parameters"),
    (lambda: FinePrune(TRAINING), Odd(), "convolutions"),
    (lambda: FinePrune(TRAINING, share=1.0), network(0), "share"),
    (lambda: FinePrune(TRAINING, by="age"), network(0), "age"),
    (lambda: GaussianNoise(network(1), "beside"), network(0), "beside"),
])  # fmt: skip
def test_what_cannot_be_done_is_refused(make, network, says, data):
    with pytest.raises(BadInput, match=says):
        make()(network, data)


def test_a_fresh_network_may_be_given_where_layers_cannot_reset_themselves(data):
    assert isinstance(FromScratch(TRAINING, fresh=Odd())(Odd(), data), Odd)
    assert baselines.Defense
