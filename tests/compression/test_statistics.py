"""BatchNorm statistics after compression: those whose answers are more like the ones before."""

import copy

import pytest
import torch
from support.rows import samples
from torch import nn

from isthmus import fit
from isthmus.compression import PostTraining, baked, prune, quantize
from isthmus.compression.statistics import give_statistics
from isthmus.models import preact_resnet
from isthmus.models.batchnorm import recalibrate
from isthmus.models.shift import Shift


@pytest.fixture(scope="module")
def net():
    """A network whose statistics are of other images than the trusted ones, as those of augmented
    training are.
    """
    torch.manual_seed(0)
    made = preact_resnet(8, 3, 1)
    elsewhere = samples(seed=1)
    elsewhere.x.mul_(0.8).add_(0.1)
    fit(made, elsewhere, steps=60, lr=0.05, batch_size=40, precision="fp32")
    return made


def divergence(net, whole, x):
    """The mean KL divergence from the answers before, written out."""
    with torch.no_grad():
        before, after = whole(x).softmax(1), net(x).softmax(1)
    return float((before * (before.log() - after.log())).sum(1).mean())


def moved_from(net, small):
    """The statistics received, moved by what recalibration changes from one to the other."""
    shift = Shift.between(net, recalibrate(copy.deepcopy(net), samples()))
    return shift.apply(recalibrate(copy.deepcopy(small), samples()))


def compressed(net, how):
    if isinstance(how, float):
        return baked(prune(net, samples(), how).model)
    return baked(quantize(net, samples(), how, method=PostTraining()).model)


@pytest.mark.parametrize("how", [0.9, 0.5, 0.1, 8, 4, "ternary", 1])
def test_the_statistics_are_those_of_the_nearer_answers(net, how):
    small, x = compressed(net, how), samples().x
    others = [
        recalibrate(copy.deepcopy(small), samples()),
        moved_from(net, small),
    ]
    nearest = min(others, key=lambda other: divergence(other, net, x))
    torch.testing.assert_close(small(x), nearest(x))


def test_where_much_was_changed_the_statistics_are_new(net):
    """Weights a hundredth of what they were compute the same, after new statistics."""
    small, x = copy.deepcopy(net), samples().x
    with torch.no_grad():
        for layer in small.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight.mul_(0.01)
    fresh = recalibrate(copy.deepcopy(small), samples())
    give_statistics(small, net, samples())
    torch.testing.assert_close(small(x), fresh(x))


def test_what_changes_nothing_leaves_the_statistics_as_they_came(net):
    small = baked(prune(net, samples(), 1.0).model)
    for name, value in net.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue  # of the recalibration that was looked at
        torch.testing.assert_close(small.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def test_of_a_network_without_statistics_only_weights_change():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3))
    small = baked(quantize(net, samples(), 8, method=PostTraining()).model)
    changed = {n for n, v in net.state_dict().items() if not torch.equal(v, small.state_dict()[n])}
    assert changed == {"1.weight", "3.weight"}


def test_data_with_fewer_classes_than_outputs_are_none_of_its_business():
    torch.manual_seed(0)
    net, few = preact_resnet(8, 10, 1), samples()
    assert prune(net, few, 0.5).record["kept"] and quantize(net, few, 8).record["kept"]


@pytest.mark.parametrize("name", ["running_mean", "running_var"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_statistics_that_are_not_finite_are_replaced(net, name, value):
    broken = copy.deepcopy(net)
    layer = next(part for part in broken.modules() if isinstance(part, nn.BatchNorm2d))
    getattr(layer, name)[0] = value
    small = prune(broken, samples(), 0.5).model
    assert all(buffer.isfinite().all() for buffer in small.buffers())
    assert small(samples().x).isfinite().all()
