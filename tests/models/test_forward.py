"""Laws of how networks run: modes, batches, precision, layout, devices, ranks outside a launch."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from support.networks import AROUND, ZOO, Around, data, network
from support.refusals import refused
from torch import nn
from torch.utils.checkpoint import checkpoint

from isthmus import BadInput, Bezier, Data, Linf, fit, input_hessian_top, recalibrate
from isthmus.attacks import PGD
from isthmus.attacks.inputs.health.probes.stronger import Blurred
from isthmus.curves import expected_over_t
from isthmus.metrics import Accuracy, MeanLoss, RobustAccuracy, measure
from isthmus.metrics.curvature.weights import weight_hessian_top
from isthmus.models import frozen, laid_out
from isthmus.models.forward import (
    as_input,
    device_of,
    eval_mode,
    outputs,
    pass_size,
    set_channels_last,
    takes_channels_last,
)
from isthmus.models.view import View, copied
from isthmus.runs import fast_precision, joined_ranks, pick_device, ranks
from isthmus.runs.devices import autocast, chosen_precision
from isthmus.runs.processes import Ranks, average, gathered, share_from_first
from isthmus.training.losses import cross_entropy, sharpness_aware

pytestmark = pytest.mark.numeric

CPU = torch.device("cpu")
every_network = pytest.mark.parametrize("kind", ZOO)


@every_network
def test_outputs_do_not_depend_on_batches_or_modes_and_change_nothing(kind):
    net, x = network(kind).train(), data(40).x
    before = {name: t.clone() for name, t in net.state_dict().items()}
    expected = network(kind)(x).detach()
    # a sum in another order can move what a bfloat16 layer gets by one unit in its last place
    narrow = any(p.dtype == torch.bfloat16 for p in net.parameters())
    tolerance = torch.finfo(torch.bfloat16).eps * float(expected.abs().max()) if narrow else 1e-5
    for size in (None, 40, 7, 1):
        if size == 1 and kind == "batchnorm1d":
            continue  # a layer without running statistics needs two
        found = outputs(net, x, batch_size=size)
        assert found.dtype == torch.float32
        assert not found.requires_grad
        if kind != "batchnorm1d":
            assert torch.allclose(found, expected, atol=tolerance)
    assert all(part.training for part in net.modules())
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())


def test_bytes_and_floats_give_the_same_outputs():
    net = network("batchnorm")
    assert torch.equal(outputs(net, data(dtype=torch.uint8).x), outputs(net, data().x))


@pytest.mark.parametrize("kind", ["batchnorm", "view"])
def test_weights_are_laid_out_for_a_block_and_put_back_even_when_it_breaks_off(kind):
    net, x = network(kind), data(4).x
    convolution = next(m for m in net.modules() if isinstance(m, nn.Conv2d)).weight
    with pytest.raises(ZeroDivisionError), laid_out(net, x) as last:
        assert last == (kind == "batchnorm") == (not convolution.is_contiguous())
        raise ZeroDivisionError
    assert convolution.is_contiguous()


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_the_form_of_an_input(dtype, channels_last):
    x = data(4, dtype=dtype).x
    given = as_input(x, CPU, channels_last=channels_last)
    assert given.dtype == (torch.float32 if dtype == torch.uint8 else dtype)
    assert torch.equal(given, x / 255 if dtype == torch.uint8 else x)
    assert given.is_contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )


@every_network
def test_channels_last_is_tried_first(kind):
    net = network(kind).train()
    assert takes_channels_last(net, data(4).x) == (kind not in ("view", "lstm"))
    assert all(part.training for part in net.modules())


def test_a_broken_network_is_left_for_the_real_pass_to_report():
    assert takes_channels_last(nn.Linear(7, 2), data(4).x)


OVERRUN = """
import torch
from torch import nn
from isthmus import Data, fit
from isthmus.curves import connect
x, y = torch.rand(40, 3, 6, 6), torch.arange(40) % 2
nets = [nn.Sequential(nn.Conv2d(3, 8, 1, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2))
        for _ in range(2)]
for net in nets:
    fit(net, Data(x, y, 2), steps=60, lr=0.01, batch_size=40, precision="fp32")
connect(*nets, Data(x, y, 2), steps=30, precision="fp32")
"""


def test_layers_whose_kernel_writes_past_its_buffer_on_older_cpus_are_not_laid_out_that_way():
    """Under oneDNN's AVX2 kernels the process crashes where the layout is channels last."""
    older = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", OVERRUN], env=older, capture_output=True)
    assert done.returncode == 0, done.stderr[-300:]
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        outputs(nn.Linear(7, 2), data(4).x)


@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.spectral_norm])
def test_weights_that_hooks_have_just_computed_are_copied_too(norm):
    net, x = nn.Sequential(nn.Flatten(), norm(nn.Linear(192, 4))).eval(), data(4).x
    expected = net(x)
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(net)
    twin = copied(net)
    assert torch.equal(twin(x), expected) and torch.equal(net(x), expected)
    with torch.no_grad():
        next(twin.parameters()).zero_()
    assert not torch.equal(twin(x), expected) and torch.equal(net(x), expected)


@every_network
def test_a_change_of_layout_changes_no_number_and_goes_back(kind):
    net = network(kind)
    before = [(p, p.detach().clone(), p.stride()) for p in net.parameters()]
    for on in (True, False):
        set_channels_last(net, on)
        assert all(torch.equal(p, was) for p, was, _ in before)
        assert [p for p in net.parameters()] == [p for p, _, _ in before]  # noqa: C416
    assert all(p.stride() == stride for p, _, stride in before)


def test_modes_come_back_as_they_were_also_mixed_and_after_an_error():
    net = network("batchnorm").train()
    net[1].eval()
    net[7].eval()
    modes = [part.training for part in net.modules()]
    with eval_mode(net) as same:
        assert same is net
        assert not any(part.training for part in net.modules())
    assert [part.training for part in net.modules()] == modes
    with pytest.raises(ZeroDivisionError), eval_mode(net):
        raise ZeroDivisionError
    assert [part.training for part in net.modules()] == modes


def test_the_network_under_a_curve_comes_back_too():
    curve = Bezier(network("dropout", 1), network("dropout", 2)).train()
    with eval_mode(curve):
        assert not curve.at(0.5).net.training
    assert all(part.training for part in curve.at(0.5).net.modules())


def test_a_frozen_network_gives_its_input_gradients_and_its_weights_none():
    net = network("frozen").train()
    flags, x = [p.requires_grad for p in net.parameters()], data(4).x.requires_grad_()
    with pytest.raises(ZeroDivisionError), frozen(net):
        assert not any(p.requires_grad for p in net.parameters())
        assert not net.training
        net(x).sum().backward()
        raise ZeroDivisionError
    assert x.grad.abs().sum() > 0
    assert all(p.grad is None for p in net.parameters())
    assert [p.requires_grad for p in net.parameters()] == flags
    assert set(flags) == {True, False}
    assert net.training


def test_precision_is_what_was_asked_for():
    net = network("linear")
    assert chosen_precision(CPU, "auto") == fast_precision(CPU)
    full, half = (outputs(net, data().x, precision=p) for p in ("fp32", "bf16"))
    assert not torch.equal(full, half)
    assert torch.allclose(full, half, atol=0.1)
    with autocast(CPU, "fp32"):
        assert net(data().x).dtype == torch.float32
    with autocast(CPU, "bf16"):
        assert net(data().x).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: pick_device("abacus"), "device 'abacus'"),
        (lambda: pick_device("cuda:99"), "device 'cuda:99'"),
        (lambda: pick_device("meta"), "device 'meta'"),
        (lambda: autocast(CPU, "fp7"), "precision 'fp7'"),
    ],
)
def test_what_this_machine_does_not_have_is_refused(make, words):
    with pytest.raises(BadInput, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "call",
    [
        lambda net, x, y: outputs(net, x),
        lambda net, x, y: fit(net, data(8), steps=1, lr=0.1),
        lambda net, x, y: PGD(Linf(0.1), steps=1)(net, x, y),
        lambda net, x, y: input_hessian_top(net, x, y),
    ],
)
def test_a_network_that_returns_one_of_two_answers_is_told_to_return_its_logits(call):
    samples = data(8)
    two_heads = Around(network("linear"), lambda logits, x: (logits, logits))
    with pytest.raises(BadInput, match="returns a tuple; expected logits; wrap it"):
        call(two_heads, samples.x, samples.y)


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
def test_logits_are_taken_out_of_what_is_around_them(around):
    samples, net = data(8), Around(network("linear"), around)
    plain = copy.deepcopy(net.body)
    assert torch.equal(outputs(net, samples.x), outputs(plain, samples.x))
    attack = PGD(Linf(0.1), steps=2)
    moved = [attack(each, samples.floats(), samples.y) for each in (net, plain)]
    assert torch.equal(*moved)
    for each in (net, plain):
        fit(each, samples, steps=3, lr=0.1)
    assert all(map(torch.equal, net.parameters(), plain.parameters()))
    ends = (net, Around(network("linear"), around))
    fit(Bezier(*ends), samples, expected_over_t(cross_entropy), steps=2, lr=0.1)


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
def test_whatever_reads_a_networks_output_takes_its_logits(around):
    samples = data(8)
    plain = network("linear")
    net = Around(plain, around)
    sharpness = [weight_hessian_top(each, samples.floats(), samples.y) for each in (net, plain)]
    assert sharpness[0] == pytest.approx(sharpness[1])
    blurred = [Blurred(each, 0.1)(samples.floats()) for each in (net, plain)]
    assert torch.equal(*blurred)


def test_devices_are_found():
    assert pick_device("cpu") == CPU
    assert pick_device(CPU) == CPU
    assert pick_device().type in ("cpu", "cuda")
    assert device_of(nn.ReLU()) == device_of(network("linear")) == CPU


@pytest.mark.parametrize(
    ("shape", "cpu", "gpu", "gradients"),
    [((3, 32, 32), 150, 2500, 312), ((3, 224, 224), 3, 51, 6), ((1, 8, 8), 7_200, 120_000, 15_000)],
)
def test_a_pass_holds_about_as_many_values_whatever_the_images(shape, cpu, gpu, gradients):
    x, large = torch.empty(1, *shape), torch.empty(1, 3, 10_000, 10_000, device="meta")
    assert pass_size(x, CPU) == pass_size(x, CPU, gradients=True) == cpu
    assert pass_size(x, torch.device("cuda")) == gpu
    assert pass_size(x, torch.device("cuda"), gradients=True) == gradients
    assert pass_size(large, CPU) == 1
    assert pass_size(x[:0], CPU) == cpu, "no samples have a shape too"


def test_alone_there_is_one_rank_and_nothing_to_exchange():
    with joined_ranks() as here:
        assert here == ranks() == Ranks(0, 1, 0)
        assert here.first
        x = torch.ones(3)
        average([x])
        share_from_first([x])
        assert torch.equal(x, torch.ones(3))
        assert gathered("a") == ["a"]


class InPlace(nn.Sequential):
    """Normalizes its images in their own memory, as some networks do."""

    def forward(self, x):
        x.sub_(0.3).div_(0.5)
        return super().forward(x)


class OutOfPlace(nn.Sequential):
    def forward(self, x):
        return super().forward((x - 0.3) / 0.5)


def both(channels=1):
    torch.manual_seed(0)
    layers = [nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 4)]
    return InPlace(*layers), OutOfPlace(*copy.deepcopy(layers))


def gradient(net, x, y):
    (value,) = torch.autograd.grad(cross_entropy(net, x, y), list(net.parameters())[:1])
    return value


ANSWERS = {
    "outputs": lambda net, x, y: outputs(net, x),
    "twice": lambda net, x, y: [outputs(net, x), outputs(net, x)][1],
    "a point of a curve": lambda net, x, y: Bezier(net, net).at(0.5)(x),
    "recalibrated": lambda net, x, y: recalibrate(copied(net), (x, y))[1].running_mean,
    "attacked": lambda net, x, y: PGD(Linf(0.1), steps=3)(net, x, y),
    "a metric": lambda net, x, y: torch.tensor(measure(net, {"a": MeanLoss((x, y))})["a"]),
    "curvature": lambda net, x, y: input_hessian_top(net, x, y),
    "gradient of a weight": gradient,
}


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_network_that_writes_into_its_input_never_writes_into_the_users(name, channels):
    x = torch.rand(12, channels, 8, 8)
    before, y = x.clone(), torch.arange(12) % 4
    inside, outside = (ANSWERS[name](net.eval(), x, y) for net in both(channels))
    assert torch.equal(x, before)
    assert torch.allclose(inside, outside, atol=1e-6)


def test_training_on_a_network_that_writes_into_its_input_sees_each_image_once():
    samples = data(16)
    states = []
    for net in both(3):
        fit(net, samples, sharpness_aware(cross_entropy), steps=3, lr=0.1, device="cpu")
        states.append(net.state_dict())
    assert all(torch.equal(v, states[1][name]) for name, v in states[0].items())


@pytest.mark.parametrize("images", [torch.uint8, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32, torch.float64])
def test_images_are_cast_to_the_type_of_the_network(kind, images):
    samples = data(8, dtype=torch.uint8)
    if images != torch.uint8:
        samples = Data(samples.floats().to(images), samples.y, samples.classes)
    net = network("batchnorm").to(kind)
    found = outputs(net, samples.x)
    expected = network("batchnorm").double()(
        samples.x.double() / (255 if images == torch.uint8 else 1)
    )
    error = 0.1 if torch.bfloat16 in (kind, images) else 0.02
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), expected, atol=error * float(expected.abs().max()))
    curve = Bezier(net, net)
    assert torch.allclose(outputs(curve, samples.x), found, atol=error)
    attacked = measure(net, {"robust": RobustAccuracy(samples, PGD(Linf(0.1), steps=2))})
    assert attacked["robust"] <= measure(net, {"clean": Accuracy(samples)})["clean"]


def test_how_a_network_takes_images_is_decided_once_and_without_a_draw():
    net, passes = network("batchnorm"), []
    net.register_forward_pre_hook(lambda module, inputs: passes.append(len(inputs[0])))
    state = torch.get_rng_state()
    for _ in range(3):
        outputs(net, data(8).x)
    assert passes == [2, 8, 8, 8]
    assert torch.equal(torch.get_rng_state(), state)
    net.double()  # another network, for all that is known
    assert outputs(net, data(8).x).dtype == torch.float32


class Recomputed(nn.Sequential):
    """Computes its first layers again in the backward pass, as memory-efficient networks do."""

    def forward(self, x):
        first, rest = nn.Sequential(*list(self)[:3]), nn.Sequential(*list(self)[3:])
        return rest(checkpoint(first, x, use_reentrant=False))


def test_layers_that_are_computed_again_see_the_same_weights():
    plain, again = network("batchnorm"), Recomputed(*network("batchnorm"))
    curves = [Bezier(net, copied(net)) for net in (plain, again)]
    for curve in curves:
        loss = expected_over_t(sharpness_aware(cross_entropy))
        fit(curve, data(16), loss, steps=3, lr=0.1, device="cpu")
    assert torch.equal(curves[0].bends, curves[1].bends)
    held = [p for p in again.parameters()]  # noqa: C416
    fit(again, data(16), sharpness_aware(cross_entropy), steps=2, lr=0.1, device="cpu")
    assert all(p is was for p, was in zip(again.parameters(), held, strict=True))


def test_views_of_one_network_take_turns_in_the_backward_pass():
    net = Recomputed(*network("batchnorm")).requires_grad_(False)
    plain = nn.Sequential(*net)
    x, first = data(8).x, {name: p.clone() for name, p in net.named_parameters()}
    second = {name: p * 1.1 for name, p in first.items()}
    grads = []
    for module in (plain, net):
        weights = [{n: p.clone().requires_grad_() for n, p in w.items()} for w in (first, second)]
        values = [View(module, w, {})(x).square().mean() for w in weights]
        (values[0] * values[1]).backward()
        grads.append([p.grad for w in weights for p in w.values() if p.grad is not None])
    assert len(grads[0]) and all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
    assert all(torch.equal(p, first[name]) for name, p in net.named_parameters())


@pytest.mark.parametrize("call", [copied, lambda net: Bezier(net, net), lambda net: View.of(net)])
def test_compiled_code_is_refused_where_its_weights_would_have_to_change(call):
    scripted = torch.jit.trace(network("linear"), data(2).x)
    assert outputs(scripted, data(4).x).shape == (4, 4)
    refused(lambda: call(scripted), "a TorchScript module", "an ordinary torch.nn.Module")
    refused(lambda: call(nn.Sequential(scripted)), "whose part '0' is TorchScript")
