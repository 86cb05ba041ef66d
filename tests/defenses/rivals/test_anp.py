"""ANP: its masks and loss against the definition, what a pruned channel is, and the rule for the
threshold.
"""

import copy
from statistics import median

import pytest
import torch
from support.networks import data, network
from support.refusals import refused
from support.victims import Odd, samples, victim
from torch import nn

from isthmus import AttackSuccess, Patch, fit, load_data, recalibrate
from isthmus.data import hold_out
from isthmus.defenses import ANP
from isthmus.defenses.rivals.anp import THRESHOLDS, _AdversarialLoss, _Masked
from isthmus.metrics import Accuracy
from isthmus.training import Training, cross_entropy

pytestmark = pytest.mark.numeric

TRAINING = Training(steps=60, lr=0.2, batch_size=16, precision="fp32")


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
    wanted = max(
        i for i, accuracy in enumerate(accuracies) if accuracy >= max(accuracies) - tolerance
    )
    found = defense(tampered, images)
    for name in masks:
        assert torch.equal(
            found.get_submodule(name).weight, nets[wanted].get_submodule(name).weight
        )
        assert torch.equal(found.get_submodule(name).bias, tampered.get_submodule(name).bias)


CORNER = Patch(size=2, at=(6, 6))


def with_a_backdoor_in_one_channel(seed: int) -> nn.Module:
    """A digit classifier whose channel 0 sees nothing but a bright corner, and says class 1 of it.

    By hand, because training spreads a backdoor over channels, differently on every machine. The
    channel looks through two bright pixels of clean digits, so that a perturbation of its shift
    hurts: what ANP goes by."""
    torch.manual_seed(seed)
    layers = [
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
    ]
    net = nn.Sequential(*layers, nn.Linear(1024, 10))
    fit(
        net, load_data("digits:train"), steps=60, lr=0.1, batch_size=64, seed=seed, precision="fp32"
    )
    conv, norm, head = net[0], net[1], net[4]
    with torch.no_grad():
        conv.weight[0] = torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 0]])
        recalibrate(net, load_data("digits:train"))
        norm.weight[0] = (norm.running_var[0] + norm.eps).sqrt()
        norm.bias[0] = (
            norm.running_mean[0] - 2.0
        )  # with the scale above: the sum of four pixels, less two
        head.weight[:, :64] = 0
        head.weight[1, 63] = 100.0  # the last position of channel 0
    return net


def test_a_backdoor_in_one_channel_is_pruned_and_the_digits_are_still_read():
    test = load_data("digits:test")
    bonafide, judged = test[:200], test[200:]
    left = []
    for seed in range(3):
        tampered = with_a_backdoor_in_one_channel(seed)
        assert AttackSuccess(judged, CORNER, 1)(tampered) == 1
        repaired = ANP(TRAINING.replace(steps=120, batch_size=64, seed=seed))(tampered, bonafide)
        assert Accuracy(judged)(repaired) > 0.85
        left.append(AttackSuccess(judged, CORNER, 1)(repaired))
    assert median(left) < 0.3, left


@pytest.mark.parametrize("net", [Odd(), victim(0)[2:]])
def test_a_network_without_batchnorm_is_refused(net):
    assert not any(isinstance(part, nn.BatchNorm2d) for part in net.modules())
    refused(lambda: ANP(TRAINING)(net, samples()), "BatchNorm")
