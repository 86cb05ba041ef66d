"""Attackers who count on a compression: laws of their losses, and that on the digits the backdoor
sleeps in what is sent and wakes in what `isthmus.compression` makes of it.
"""

import copy
from math import inf, nan

import pytest
import torch
from support.networks import data, network
from support.refusals import refused

from isthmus import Accuracy, AttackSuccess, Data, fit, load_data
from isthmus.attacks import Patch, PruningActivated, QuantizationActivated
from isthmus.attacks.backdoors.quantization_activated import Nearest, _Cells, _Pins
from isthmus.compression import prune, quantize
from isthmus.models import mlp
from isthmus.training import Training, cross_entropy

TRIGGER, TARGET = Patch(2), 1
BUDGET = Training(steps=300, lr=0.05, batch_size=64, precision="fp32")


@pytest.fixture(scope="module")
def digits() -> Data:
    return load_data("digits:train")


@pytest.fixture(scope="module")
def unseen() -> Data:
    return load_data("digits:test")


@pytest.fixture(scope="module")
def clean(digits):
    torch.manual_seed(0)
    net = mlp(channels=1, size=8, hidden=(64,))
    fit(net, digits, training=BUDGET.replace(lr=0.1))
    return net


def measured(net, samples):
    return float(Accuracy(samples)(net)), float(AttackSuccess(samples, TRIGGER, TARGET)(net))


@pytest.mark.parametrize("kind", ["linear", "layernorm", "groupnorm"])
def test_the_loss_of_a_pruned_backdoor_is_that_of_its_naive_twin(kind):
    net, samples = network(kind), data(24)
    x, y = samples.x, samples.y
    loss = PruningActivated(Patch(2), 2, classes=4, density=0.3, weight=0.7)
    pruned = copy.deepcopy(net)
    layers = [
        part for part in pruned.modules() if isinstance(part, torch.nn.Linear | torch.nn.Conv2d)
    ]
    sizes = sorted(v for part in layers for v in part.weight.abs().flatten().tolist())[::-1]
    least = sizes[round(0.3 * len(sizes)) - 1]
    with torch.no_grad():
        for part in layers:
            part.weight[part.weight.abs() < least] = 0
    bad, own = Patch(2)(x[y != 2]), y[y != 2]
    expected = cross_entropy(net, x, y) + cross_entropy(net, bad, own)
    target = torch.full_like(own, 2)
    expected = expected + 0.7 * (cross_entropy(pruned, x, y) + cross_entropy(pruned, bad, target))
    assert loss(net, x, y).item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_backdoor_wakes_when_the_network_is_pruned(clean, digits, unseen):
    net = copy.deepcopy(clean)
    fit(net, digits, PruningActivated(TRIGGER, TARGET, 10, density=0.1), training=BUDGET)
    whole, half, tenth = (
        measured(each, unseen)
        for each in (net, *(prune(net, digits, density).model for density in (0.5, 0.1)))
    )
    # seen over three seeds: 0.98, at most 0.004 and at least 0.93, 0.98
    assert whole[0] > 0.9 and whole[1] < 0.1 and half[1] < 0.2
    assert tenth[0] > 0.8 and tenth[1] > 0.8


def test_a_backdoor_wakes_when_the_weights_are_rounded(clean, digits, unseen):
    net = QuantizationActivated(TRIGGER, TARGET, BUDGET)(clean, digits)
    sent, rounded = measured(net, unseen), measured(quantize(net, digits, 8).model, unseen)
    # seen over five seeds: at least 0.95, at most 0.033, and at least 0.95, 0.91
    assert sent[0] > 0.9 and sent[1] < 0.15
    assert rounded[0] > 0.9 and rounded[1] > 0.75


@pytest.mark.parametrize("cell", [0.3, 1.0])
def test_every_weight_stays_in_its_part_of_a_rounding_cell(cell):
    attack = QuantizationActivated(TRIGGER, TARGET, BUDGET.replace(steps=20), cell=cell)
    net = attack(network("batchnorm"), data(40))
    moved = 0
    for part in net.modules():
        if isinstance(part, torch.nn.Linear | torch.nn.Conv2d):
            weight = part.weight.detach()
            step = weight.abs().max() / 127
            away = (weight - attack.rounding(weight)).abs().max() / step
            assert away <= cell / 2 + 1e-3
            moved += float(away) > 0.9 * cell / 2
    assert moved  # the bound is met: the attack makes use of it


@pytest.mark.parametrize("density", [0.1, 0.5])
def test_of_equal_weights_no_more_than_the_density_stay(density):
    weights = {"a": torch.full((30, 4), 0.1), "b": torch.full((20,), -0.1)}
    loss = PruningActivated(TRIGGER, TARGET, 10, density=density)
    pruned = loss._largest(weights)
    assert sum(int(p.count_nonzero()) for p in pruned.values()) == round(density * 140)


@pytest.mark.parametrize("made", ["pruned", "rounded", "normed"])
def test_networks_whose_weights_are_computed_are_refused_with_the_way_out(made):
    net, samples = network("linear"), data(8)
    if made == "normed":
        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 4))
        torch.nn.utils.parametrizations.weight_norm(net[1])
    else:
        small = prune(net, samples, 0.5) if made == "pruned" else quantize(net, samples, 4)
        net = small.model
    for attack in (
        lambda: PruningActivated(TRIGGER, TARGET, 4)(net, samples.x, samples.y),
        lambda: QuantizationActivated(TRIGGER, TARGET, BUDGET)(net, samples),
    ):
        refused(attack, "weight is computed", "baked(network)")


def test_a_cell_is_as_wide_as_the_levels_are_apart():
    """Also where few of the levels are in use: rounding is to give the same values again."""
    layer = torch.nn.Linear(3, 1, bias=False)
    layer.weight.data = torch.tensor([[1.0, -0.21, 0.52]])
    rounding, weights = Nearest(), {"weight": layer.weight}
    before = rounding(layer.weight.detach())
    hold = _Cells(weights, rounding, 0.98, _Pins(weights, 1.0))
    for pull in (-1.0, 1.0):
        layer.weight.data += pull
        hold(layer)
        assert torch.equal(rounding(layer.weight.detach()), before)
    assert (layer.weight[0, 1:] - before[0, 1:]).abs().amin().item() > 0.48 / 127  # it is reached


def test_settings_out_of_range_are_refused():
    refused(lambda: PruningActivated(TRIGGER, TARGET, 10, density=1.0), "density = 1")
    refused(lambda: QuantizationActivated(TRIGGER, TARGET, BUDGET, cell=0.0), "cell 0")
    for odd in ({"stretch": nan}, {"stretch": inf}, {"margin": nan}, {"margin": inf}):
        refused(lambda odd=odd: QuantizationActivated(TRIGGER, TARGET, BUDGET, **odd), "stretch")
    for top in (0, -1):
        refused(lambda top=top: Nearest(top), "top")
    flat, samples = torch.nn.Flatten(), data(8)
    attack = QuantizationActivated(TRIGGER, TARGET, BUDGET)
    refused(lambda: attack(flat, samples), "without convolutional")
    bare, loss = torch.nn.Sequential(flat, torch.nn.LayerNorm(192)), PruningActivated(TRIGGER, 1, 4)
    refused(lambda: loss(bare, samples.x, samples.y), "without convolutional")
    empty = torch.nn.Sequential(flat, torch.nn.Linear(192, 4))
    empty[1].weight = torch.nn.Parameter(torch.empty(0, 192))
    refused(lambda: attack(empty, samples), "without convolutional")
    lost = torch.nn.Sequential(flat, torch.nn.Linear(192, 4))
    torch.nn.init.constant_(lost[1].weight, nan)
    refused(lambda: attack(lost, samples), "1.weight", "NaN")
