"""CLP against a naive twin, channel by channel; which BatchNorm a convolution feeds; and that no
data are read.
"""

import copy

import pytest
import torch
from support.networks import data, network
from support.refusals import refused
from support.victims import Odd, samples, victim
from torch import nn

from isthmus import Data
from isthmus.defenses import CLP
from isthmus.models import preact_resnet


def naive(conv, norm, u):
    """The channels that the definition prunes: singular values of one filter at a time."""
    bounds = []
    for k in range(conv.out_channels):
        filter_ = conv.weight[k].detach().reshape(conv.weight.shape[1], -1)
        deviation = (norm.running_var[k] + norm.eps).sqrt()
        bounds.append(
            float(torch.linalg.svdvals(filter_)[0] * norm.weight[k].detach().abs() / deviation)
        )
    mean = sum(bounds) / len(bounds)
    spread = (sum((b - mean) ** 2 for b in bounds) / (len(bounds) - 1)) ** 0.5
    return {k for k, b in enumerate(bounds) if b > mean + u * spread}


def zeroed(norm):
    return set(((norm.weight == 0) & (norm.bias == 0)).nonzero().flatten().tolist())


@pytest.mark.parametrize("u", [0.0, 0.5, 1.0, 3.0])
def test_the_outlying_channels_are_pruned_and_nothing_else_changes(u):
    tampered = network("batchnorm")
    pruned = CLP(u)(tampered, data())
    for conv, norm in ((0, 1), (4, 5)):
        assert zeroed(pruned[norm]) == naive(tampered[conv], tampered[norm], u)
    for name, value in tampered.state_dict().items():
        changed = (pruned.state_dict()[name] != value).nonzero().flatten().tolist()
        assert not changed or name in ("1.weight", "1.bias", "5.weight", "5.bias")


def test_the_samples_are_not_read():
    one = CLP(0.5)(network("batchnorm"), data(seed=1))
    two = CLP(0.5)(
        network("batchnorm"), Data(torch.ones(1, 3, 8, 8), torch.zeros(1, dtype=torch.long), 4)
    )
    assert all(torch.equal(v, two.state_dict()[k]) for k, v in one.state_dict().items())


def test_in_a_pre_activation_network_the_convolutions_that_feed_a_batchnorm_are_examined():
    torch.manual_seed(0)
    net = preact_resnet(8, channels=1, width=4).eval()
    spiked = copy.deepcopy(net)
    with torch.no_grad():  # one channel of every convolution stands out
        for part in spiked.modules():
            if isinstance(part, nn.Conv2d):
                part.weight[1] *= 1000
    pruned = CLP(1.0)(spiked, samples())
    norms = {
        name
        for name, part in pruned.named_modules()
        if isinstance(part, nn.BatchNorm2d) and zeroed(part) == {1}
    }
    assert norms == {"blocks.0.bn1", "blocks.0.bn2", "blocks.1.bn2", "blocks.2.bn2"}, (
        "not those behind a sum"
    )


@pytest.mark.parametrize(
    "net", [Odd(), network("groupnorm"), network("batchnorm1d"), victim(0)[3:]]
)
def test_a_network_in_which_nothing_fits_is_refused(net):
    images = samples() if isinstance(net, Odd) else data()
    if isinstance(net, nn.Sequential) and isinstance(net[0], nn.Conv2d) and net[0].in_channels == 8:
        images = Data(torch.rand(4, 8, 6, 6), torch.arange(4) % 3, 3)
    refused(lambda: CLP()(net, images), "no convolution feeds a BatchNorm")
