"""ANP: its masks and loss against the definition, what a pruned channel is, and the rule for the threshold."""

import copy

import pytest
import torch
from networks import data, network
from refusals import refused
from torch import nn
from victims import Odd, samples, victim

from isthmus import recalibrate
from isthmus.data import hold_out
from isthmus.defenses import ANP
from isthmus.defenses.anp import THRESHOLDS, _AdversarialLoss, _Masked
from isthmus.losses import cross_entropy
from isthmus.metrics import Accuracy

TRAINING = {"steps": 60, "lr": 0.2, "batch_size": 16, "precision": "fp32"}


def test_masks_stay_between_zero_and_one_and_some_of_them_move():
    masks = ANP(TRAINING).masks(network("batchnorm"), data())
    assert masks.keys() == {"1", "5"}
    values = torch.cat(list(masks.values()))
    assert values.min() >= 0 and values.max() <= 1 and values.min() < 0.99


def test_a_masked_network_is_the_network_with_its_scales_and_shifts_changed():
    net = network("batchnorm")
    masked = _Masked(net).eval()
    twin, noise = copy.deepcopy(net), []
    for mask, layer in zip(masked.masks, (twin[1], twin[5]), strict=True):
        mask.data.uniform_()
        of_scale, of_shift = torch.rand(2, len(mask)) - 0.5
        noise += [of_scale, of_shift]
        layer.weight.data *= mask.detach() + of_scale
        layer.bias.data *= 1 + of_shift
    masked.noise = noise
    assert torch.allclose(masked(data().x), twin(data().x), atol=1e-6)


@pytest.mark.parametrize("kind", ["batchnorm", "tied"])
def test_with_masks_of_one_and_no_noise_it_is_the_network(kind):
    net = network(kind)
    assert torch.allclose(_Masked(net).eval()(data().x), net(data().x), atol=1e-6)


def test_the_loss_is_the_weighted_sum_of_the_plain_and_a_worse_one():
    images, masked = data(), _Masked(network("batchnorm")).eval()
    plain = cross_entropy(masked, images.x, images.y)
    both = [_AdversarialLoss(0.4, alpha)(masked, images.x, images.y) for alpha in (1.0, 0.0)]
    assert torch.allclose(both[0], plain) and both[1] > plain
    torch.manual_seed(0)
    mixed = _AdversarialLoss(0.4, 0.25)(masked, images.x, images.y)
    torch.manual_seed(0)
    worse = _AdversarialLoss(0.4, 0.0)(masked, images.x, images.y)
    assert torch.allclose(mixed, 0.25 * plain + 0.75 * worse)


@pytest.mark.parametrize("tolerance", [0.0, 0.1, 0.9])
def test_the_largest_threshold_within_the_tolerance_is_taken(tolerance):
    """A naive twin of the choice: prune a copy at every threshold, measure on the held-out part."""
    images, tampered = data(200), network("batchnorm")
    defense = ANP(TRAINING, tolerance=tolerance)
    fitted, held_out = hold_out(images, 0.2, 0)
    masks = defense.masks(tampered, fitted)
    nets = []
    for threshold in THRESHOLDS:
        net = copy.deepcopy(tampered)
        for name, mask in masks.items():
            for channel in range(len(mask)):
                if mask[channel] < threshold:
                    net.get_submodule(name).weight.data[channel] = 0
        nets.append(net)
    accuracies = [Accuracy(held_out)(recalibrate(copy.deepcopy(net), fitted)) for net in nets]
    wanted = max(i for i, accuracy in enumerate(accuracies) if accuracy >= max(accuracies) - tolerance)
    found = defense(tampered, images)
    for name in masks:
        assert torch.equal(found.get_submodule(name).weight, nets[wanted].get_submodule(name).weight)
        assert torch.equal(found.get_submodule(name).bias, tampered.get_submodule(name).bias)


@pytest.mark.parametrize("net", [Odd(), victim(0)[2:]])
def test_a_network_without_batchnorm_is_refused(net):
    assert not any(isinstance(part, nn.BatchNorm2d) for part in net.modules())
    refused(lambda: ANP(TRAINING)(net, samples()), "BatchNorm")
