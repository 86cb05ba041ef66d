"""NAD: attention maps by their definition, the layers that are found, and what is minimized."""

import pytest
import torch
import torch.nn.functional as F
from support.networks import data, network
from support.refusals import refused
from support.victims import TRAINING, samples, victim

from isthmus.defenses import NAD, FineTune
from isthmus.defenses.rivals.nad import _Distillation, attention, stages
from isthmus.models import preact_resnet, small_cnn

pytestmark = pytest.mark.numeric


def test_attention_is_where_the_squared_activations_are_by_the_definition():
    features = torch.randn(3, 5, 4, 2)
    for each, row in zip(features, attention(features), strict=True):
        summed = torch.stack(
            [sum(channel[i, j] ** 2 for channel in each) for i in range(4) for j in range(2)]
        )
        assert torch.allclose(row, summed / summed.square().sum().sqrt(), atol=1e-6)


@pytest.mark.parametrize(
    "make, size, layers",
    [
        (lambda: small_cnn(channels=1, width=4), 8, ("features.1", "features.4")),
        (lambda: preact_resnet(8, channels=1, width=4), 8, ("blocks.0", "blocks.1", "blocks")),
        (lambda: victim(0), 6, ("0", "3")),
    ],
)
def test_the_last_block_at_each_resolution_is_found(make, size, layers):
    assert stages(make().eval(), torch.zeros(2, 1, size, size)) == layers


def test_the_loss_is_cross_entropy_plus_the_weighted_distance_of_the_maps():
    teacher, student, images = victim(0), victim(1), samples()
    found = _Distillation(teacher, ("0", "3"), 7.0)(student, images.x, images.y)
    expected = F.cross_entropy(student(images.x), images.y)
    for depth in (1, 4):
        maps = [attention(net[:depth](images.x)) for net in (teacher, student)]
        expected = expected + 7.0 * (maps[0] - maps[1]).square().mean()
    assert torch.allclose(found, expected)
    found.backward()
    assert all(p.grad is None for p in teacher.parameters()) and student[3].weight.grad is not None


def test_without_distance_it_is_fine_tuning_for_half_of_the_budget():
    half = FineTune(TRAINING.replace(steps=2))(victim(0), samples())
    found = NAD(TRAINING, weight=0.0)(victim(0), samples())
    assert all(torch.equal(v, found.state_dict()[k]) for k, v in half.state_dict().items())


def test_layers_may_be_named():
    named = NAD(TRAINING, layers=("0", "3"))(victim(0), samples())
    found = NAD(TRAINING)(victim(0), samples()).state_dict()
    assert all(torch.equal(value, found[name]) for name, value in named.state_dict().items())
    refused(lambda: NAD(TRAINING, layers=("9",))(victim(0), samples()), "'9'")


@pytest.mark.parametrize("kind", ["linear", "lstm", "tied", "batchnorm1d"])
def test_a_network_without_feature_maps_is_refused(kind):
    refused(lambda: NAD(TRAINING)(network(kind), data()), "feature maps")
