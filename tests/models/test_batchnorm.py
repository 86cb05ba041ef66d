"""Laws of BatchNorm recalibration."""

import copy
import warnings

import pytest
import torch
from support.networks import data, network, pair
from support.refusals import refused
from torch import nn
from torch.utils.data import DataLoader, Dataset

from isthmus import Bezier, evaluate_path, fit, recalibrate
from isthmus.models.batchnorm import (
    batchnorm_layers,
    recalibrated_layers,
    tell_of_frozen_statistics,
)
from isthmus.models.forward import eval_mode
from isthmus.runs.notices import Notice

pytestmark = pytest.mark.numeric

WITH_BATCHNORM = ["batchnorm", "batchnorm1d", "frozen", "tied"]
every_network = pytest.mark.parametrize("kind", WITH_BATCHNORM)


def statistics(net: nn.Module) -> list[torch.Tensor]:
    return [
        t.clone()
        for layer in batchnorm_layers(net)
        for t in (layer.running_mean, layer.running_var)
    ]


def close(a, b, **tolerance) -> bool:
    return all(torch.allclose(x, y, **tolerance) for x, y in zip(a, b, strict=True))


def naive(net: nn.Module, parts: list[torch.Tensor]) -> list[torch.Tensor]:
    """All inputs of each layer kept, their mean and unbiased variance taken at the end."""
    net, seen = copy.deepcopy(net), {}
    layers = batchnorm_layers(net)
    with eval_mode(net), torch.no_grad():
        for layer in layers:
            layer.train()
            layer.register_forward_pre_hook(
                lambda layer, args: seen.setdefault(layer, []).append(args[0])
            )
        for part in parts:
            net(part)
    found = []
    for layer in layers:
        rows = torch.cat([x.movedim(1, -1).reshape(-1, x.shape[1]) for x in seen[layer]])
        found += [rows.mean(0), rows.var(0)]
    return found


def test_instance_norms_have_the_mean_of_every_samples_own_statistics():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.InstanceNorm2d(4, track_running_stats=True),
        nn.Flatten(),
        nn.Linear(144, 4),
    )
    h = net[0](data(33).x).flatten(2)
    for batch_size in (None, 16):
        recalibrate(net, data(33), batch_size=batch_size)
        assert close(
            (net[1].running_mean, net[1].running_var),
            (h.mean(2).mean(0), h.var(2).mean(0)),
            rtol=1e-5,
        )
    assert (
        "33 bonafide samples"
        in evaluate_path(Bezier(net, net), {}, 3, recalibrate_on=data(33)).recalibrated_on
    )


def test_one_sample_has_no_variance():
    refused(lambda: recalibrate(network("batchnorm1d"), data(1)), "one sample", "batch_size")
    refused(
        lambda: fit(network("batchnorm1d"), data(8), steps=1, lr=0.1, batch_size=1),
        "one sample",
        "--batch-size",
    )


@every_network
@pytest.mark.parametrize(("n", "batch_size"), [(48, None), (48, 16), (48, 11), (33, 16)])
def test_statistics_are_those_of_all_samples_pooled(kind, n, batch_size):
    net, x = network(kind), data(n).x
    expected = naive(net, list(x.tensor_split(-(-n // (batch_size or n)))))
    assert recalibrate(net, data(n), batch_size=batch_size) is net
    assert close(statistics(net), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["batchnorm", "batchnorm1d"])
def test_one_batch_equals_torch_with_momentum_one(kind):
    net, twin = network(kind), network(kind)
    for layer in batchnorm_layers(twin):
        layer.momentum = 1.0
        layer.train()
    twin(data().x)
    recalibrate(net, data())
    assert close(statistics(net), statistics(twin), rtol=1e-4, atol=1e-6)


@every_network
def test_the_old_statistics_leave_no_trace_and_a_second_pass_changes_nothing(kind):
    net, spoilt = network(kind), network(kind)
    for layer in batchnorm_layers(spoilt):
        layer.running_mean += 100
        layer.running_var *= 50
        layer.num_batches_tracked += 7
    first = copy.deepcopy(recalibrate(net, data()).state_dict())
    for again in (recalibrate(net, data()), recalibrate(spoilt, data())):
        assert all(torch.equal(value, again.state_dict()[name]) for name, value in first.items())


@pytest.mark.parametrize("kind", ["batchnorm", "batchnorm1d", "frozen"])
def test_the_first_layer_is_independent_of_the_batch_size(kind):
    found = [
        statistics(recalibrate(network(kind), data(48), batch_size=size))[:2]
        for size in (48, 24, 7, 5)
    ]
    for other in found[1:]:
        assert close(found[0], other, rtol=1e-5, atol=1e-6)


def test_a_number_of_samples_just_above_the_batch_size_leaves_no_batch_of_one():
    recalibrate(network("batchnorm1d"), data(17), batch_size=16)


def test_only_the_given_data_are_read_each_once():
    class Recorded(Dataset):
        def __init__(self):
            self.read, self.data = [], data(20)

        def __len__(self):
            return 20

        def __getitem__(self, i):
            self.read.append(i)
            return self.data.x[i], int(self.data.y[i])

    given, asked = Recorded(), []
    net = network("batchnorm")
    net.register_forward_pre_hook(lambda module, args: asked.append(args[0]))
    recalibrate(net, given, batch_size=8)
    assert given.read == list(range(20))
    tried, seen = asked[0], torch.cat(asked[1:])
    assert torch.equal(seen, given.data.x)
    assert torch.equal(tried, given.data.x[: len(tried)])
    from_loader = recalibrate(
        network("batchnorm"), DataLoader(Recorded(), batch_size=3), batch_size=8
    )
    assert close(statistics(net), statistics(from_loader))


@pytest.mark.parametrize("kind", ["layernorm", "groupnorm", "attention", "lstm"])
def test_a_network_without_batchnorm_is_left_alone_and_the_data_unread(kind):
    net = network(kind).train()
    before = copy.deepcopy(net.state_dict())

    def unread():
        raise AssertionError("read")
        yield

    assert recalibrate(net, unread()) is net
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_weights_modes_momenta_and_hooks_stay_as_they_were_and_dropout_is_off():
    net = network("batchnorm").train()
    net[1].eval()
    for layer, momentum in zip(batchnorm_layers(net), (None, 0.3), strict=False):
        layer.momentum = momentum
    momenta = [layer.momentum for layer in batchnorm_layers(net)]
    modes = [part.training for part in net.modules()]
    before = [p.clone() for p in net.parameters()]
    assert close(
        statistics(recalibrate(net, data())), statistics(recalibrate(network("batchnorm"), data()))
    )
    assert [part.training for part in net.modules()] == modes
    assert [layer.momentum for layer in batchnorm_layers(net)] == momenta
    assert all(torch.equal(p, was) for p, was in zip(net.parameters(), before, strict=True))
    assert not any(part._forward_hooks for part in net.modules())


def test_a_failing_pass_still_puts_modes_and_hooks_back():
    net = network("batchnorm").train()
    with pytest.raises(RuntimeError):
        recalibrate(net, (torch.rand(4, 1, 8, 8), torch.arange(4)))
    assert all(part.training for part in net.modules())
    assert not any(part._forward_hooks for part in net.modules())
    assert {layer.momentum for layer in batchnorm_layers(net)} == {0.1}


def test_a_float64_network_gets_float64_statistics():
    net, x = network("batchnorm").double(), data(32, dtype=torch.float64)
    recalibrate(net, x)
    assert close(statistics(net), naive(net, [x.x]), rtol=1e-12, atol=1e-12)


def test_an_exported_point_carries_its_own_statistics_and_the_endpoint_keeps_its_own():
    start, end = pair("batchnorm")
    curve = Bezier(start, end)
    own = statistics(start)
    point = recalibrate(curve.export(0.5), data())
    assert not close(statistics(point), own)
    assert close(statistics(curve.export(0.0)), own, rtol=0, atol=0)
    assert close(statistics(start), own, rtol=0, atol=0)


class KeepsBatchNorm(nn.Sequential):
    """BatchNorm stays in eval mode, the usual way to freeze it."""

    def train(self, mode=True):
        super().train(mode)
        for part in self.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.eval()
        return self


class Constant(nn.Module):
    """BatchNorm whose statistics are plain buffers, as detection libraries have it."""

    def __init__(self, layer):
        super().__init__()
        self.register_buffer("running_mean", layer.running_mean.clone())
        self.register_buffer("running_var", layer.running_var.clone())

    def forward(self, x):
        mean, scale = self.running_mean, (self.running_var + 1e-5).rsqrt()
        return (x - mean[:, None, None]) * scale[:, None, None]


def frozen():
    return KeepsBatchNorm(*(p for p in network("batchnorm") if not isinstance(p, nn.Dropout)))


def constant():
    parts = list(frozen())
    return nn.Sequential(*(Constant(p) if isinstance(p, nn.BatchNorm2d) else p for p in parts))


def test_layers_that_the_network_keeps_in_eval_mode_stay_frozen():
    net = KeepsBatchNorm(*network("batchnorm")).eval()
    before, modes = statistics(net), [part.training for part in net.modules()]
    assert not recalibrated_layers(net) and len(batchnorm_layers(net)) == len(before) // 2
    recalibrate(net, data())
    assert close(statistics(net), before, rtol=0, atol=0)
    assert [part.training for part in net.modules()] == modes
    found = evaluate_path(Bezier(net, net), {}, 3, recalibrate_on=data(33))
    assert found.recalibrated_on.startswith("nothing")


def test_layers_in_eval_mode_by_the_user_alone_are_recalibrated():
    net = network("batchnorm").train()
    batchnorm_layers(net)[0].eval()
    assert recalibrated_layers(net) == batchnorm_layers(net)


@pytest.mark.parametrize("side", [0.2, 0.8])
@pytest.mark.parametrize("make", [frozen, constant])
def test_a_curve_is_trained_on_the_statistics_that_its_points_are_measured_with(make, side):
    start, end = make(), make()
    with torch.no_grad():
        for name, buffer in end.named_buffers():
            if "running" in name:
                buffer.add_(0.5)
    point = Bezier(start, end).train().at(side)
    in_training = point(data(8).x)
    assert torch.equal(in_training, Bezier(start, end).export(side)(data(8).x))


@pytest.mark.parametrize("make", [frozen, constant])
def test_frozen_statistics_are_told_of_before_the_work(make):
    with pytest.warns(Notice, match=r"layers keep frozen BatchNorm statistics \(1, "):
        tell_of_frozen_statistics(make())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tell_of_frozen_statistics(network("batchnorm"))
        tell_of_frozen_statistics(network("layernorm"))
