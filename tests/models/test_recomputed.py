"""What is computed again for the gradients changes none of them, and less is kept."""

import gc
from weakref import ref

import pytest
import torch
from support.networks import ZOO, data, network, pair
from support.noticed import notices
from support.refusals import refused
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from isthmus.attacks import PGD
from isthmus.curves import Bezier, connect, expected_over_t
from isthmus.data import Linf
from isthmus.defenses import universal_perturbations
from isthmus.models import preact_resnet, vgg16
from isthmus.models.forward import forward_pass, precise_logits
from isthmus.models.memory import largest_pass
from isthmus.models.recomputed import PARTS, parts_of, recomputed
from isthmus.training import Training, adversarial, cross_entropy, fit, sharpness_aware

STEPS = {"steps": 4, "lr": 0.1, "batch_size": 16, "precision": "fp32"}


class Writing(nn.Module):
    """Blocks and a stem with layers that write into what they are called with."""

    def __init__(self, channels=12, blocks=6):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), nn.SiLU(inplace=True))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(channels),
                nn.SiLU(inplace=True),
                nn.Conv2d(channels, channels, 3, padding=1),
                nn.Dropout(0.2),
            )
            for _ in range(blocks)
        )
        self.head = nn.Linear(channels, 4)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(nn.functional.silu(x, inplace=True).mean((2, 3)))


def layers_in_a_row():
    """Many layers and no block, of which some write into their input."""
    layers = [nn.Conv2d(3, 8, 3, padding=1)]
    for _ in range(8):
        layers += [nn.SiLU(inplace=True), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 4))


DEEP = {
    "residual": lambda: preact_resnet(20, classes=4),
    "writing": Writing,
    "row": layers_in_a_row,
    "vgg": lambda: vgg16(classes=4),
}


def deep(kind):
    torch.manual_seed(0)
    return DEEP[kind]()


def images(kind, n=16):
    side = 32 if kind == "vgg" else 8
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0))


def kept(net, x, **options):
    """Bytes that a pass keeps for its gradients, weights apart."""
    seen, total = {p.untyped_storage().data_ptr() for p in net.parameters()}, []

    def keep(tensor):
        place = tensor.untyped_storage().data_ptr()
        if place not in seen:
            seen.add(place)
            total.append(tensor.nbytes)
        return tensor

    with recomputed(net, x, **options), saved_tensors_hooks(keep, lambda tensor: tensor):
        forward_pass(net, x)
    return sum(total)


@pytest.mark.parametrize("kind", ZOO)
@pytest.mark.parametrize("curve", [False, True], ids=["network", "curve"])
def test_training_that_computes_again_is_training(kind, curve):
    def trained(**options):
        if not curve:
            net = network(kind)
            history = fit(net, data(), **STEPS, **options)
            return [*net.parameters(), *net.buffers()], history.losses
        line = Bezier(*pair(kind))
        history = fit(line, data(), expected_over_t(cross_entropy, 1e-3), **STEPS, **options)
        return [line.bends, *line.export(0.5).buffers()], history.losses

    (expected, losses), _ = notices(trained)
    (found, again), _ = notices(lambda: trained(recompute=True))
    assert losses == again
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize("kind", DEEP)
def test_a_deep_network_keeps_half_of_what_it_kept_and_the_same_gradients(kind):
    x = images(kind)
    assert kept(deep(kind).train(), x) < 0.5 * kept(deep(kind).train(), x, wanted=False)
    ends = []
    for wanted in (False, True):
        net = deep(kind).train()
        torch.manual_seed(1)
        with recomputed(net, x, wanted):
            forward_pass(net, x).square().sum().backward()
        ends.append([*(p.grad for p in net.parameters()), *net.buffers()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_each_part_of_a_network_of_equal_blocks_is_small():
    net, x = deep("writing").train(), images("writing")
    whole = kept(net, x, wanted=False)
    parts = [part for part, _ in parts_of(net, x)]
    assert set(net.blocks) < set(parts)
    for block in net.blocks:
        assert kept(block, torch.rand(16, 12, 8, 8), wanted=False) < whole / PARTS


LOSSES = {
    "attacked": adversarial(PGD(Linf(0.05), steps=2, seed=0)),
    "sharpness": sharpness_aware(rho=0.1),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_of_several_passes_and_parts_of_parts(loss):
    """Parts of a batch are computed again, and within them parts of the network, on a curve too."""
    options = {**STEPS, "clip": 1.0}

    def run(**more):
        line = Bezier(deep("row"), nn.Sequential(*deep("row")))
        fit(line, data(), expected_over_t(LOSSES[loss]), **options, **more)
        return line.bends

    assert torch.equal(run(), run(recompute=True))
    parts, nested = run(microbatch=5), run(microbatch=5, recompute=True)
    assert torch.equal(parts, nested)


def gradient_penalty(model, x, y):
    """A loss that takes gradients of gradients, for which a part is computed again twice."""
    x = x.detach().requires_grad_()
    value = nn.functional.cross_entropy(precise_logits(model, x), y)
    (gradient,) = torch.autograd.grad(value, x, create_graph=True)
    return value + gradient.square().sum()


@pytest.mark.parametrize("option", [{"recompute": True}, {"microbatch": 5}], ids=str)
def test_gradients_of_gradients_are_those_of_a_network_that_keeps_all(option):
    def smooth():
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 8, 3, padding=1)]
        for _ in range(6):
            layers += [nn.Tanh(), nn.Conv2d(8, 8, 3, padding=1)]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 4))

    whole, again = smooth(), smooth()
    losses = fit(whole, data(), gradient_penalty, **STEPS).losses
    found = fit(again, data(), gradient_penalty, **STEPS, **option).losses
    assert found == pytest.approx(losses, rel=1e-4)
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


class Named(nn.Module):
    """Blocks whose inputs have the names of what computes them again."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(4))
        self.head = nn.Linear(192, 4)

    def forward(self, x):
        x = x.flatten(1)
        for block in self.blocks:
            x = block(x, run=1.0, modules=0.5, layers=2.0, debug=True)
        return self.head(x)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(192, 64), nn.Linear(64, 192)

    def forward(self, x, run, modules, layers, debug):
        assert debug
        return run * x + layers * modules * self.last(torch.tanh(self.first(x)))


def test_a_part_may_call_its_inputs_as_it_likes():
    torch.manual_seed(0)
    net = Named()
    assert len(parts_of(net, data().x)) == 4
    twin = Named()
    twin.load_state_dict(net.state_dict())
    assert fit(net, data(), **STEPS, recompute=True).losses == fit(twin, data(), **STEPS).losses


@pytest.mark.parametrize("kind", ["layernorm", "attention", "dropout"])
def test_a_batch_in_parts_is_the_batch_up_to_rounding(kind):
    whole, parts = network(kind), network(kind)
    losses = fit(whole, data(), **STEPS).losses
    found = fit(parts, data(), **STEPS, microbatch=5).losses
    if kind == "layernorm":  # which draws nothing
        assert found == pytest.approx(losses, rel=1e-4)
        for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
            assert torch.allclose(a, b, atol=1e-6)
    assert found[0] == pytest.approx(losses[0], rel=0.3)


def test_batchnorm_in_parts_is_that_of_each_part():
    """The naive twin: statistics of each part, one loss of all."""
    net, twin = network("batchnorm"), network("batchnorm").train()
    batch = data(15)
    fit(
        net,
        batch,
        steps=1,
        lr=0.1,
        batch_size=15,
        momentum=0,
        precision="fp32",
        microbatch=5,
        augment=ordered,
    )
    order = ordered.last
    torch.manual_seed(0)
    logits = torch.cat([twin(part) for part in order.split(5)])
    assert logits.shape == (15, 4)
    for (name, a), b in zip(net.named_buffers(), twin.buffers(), strict=True):
        assert torch.allclose(a, b), name


class Ordered:
    """An augmentation that changes nothing and remembers its batch."""

    def __call__(self, x):
        self.last = x
        return x


ordered = Ordered()


def test_a_curve_of_a_transformer_fits_a_quarter_of_the_batch():
    ends = [network("layernorm", seed) for seed in (0, 1)]
    options = {"bends": 1, "steps": 4, "batch_size": 16, "precision": "fp32"}
    whole, _ = connect(*ends, data(), **options)
    parts, _ = connect(*ends, data(), **options, microbatch=4)
    assert torch.allclose(whole.bends, parts.bends, atol=1e-6)


def test_universal_perturbations_take_both():
    search = Training(steps=4, lr=0.1, batch_size=16, precision="fp32")
    whole = universal_perturbations(deep("row"), data(), search)
    again = universal_perturbations(deep("row"), data(), search.replace(recompute=True))
    assert torch.equal(whole.values, again.values)
    parts = universal_perturbations(deep("row"), data(), search.replace(microbatch=5))
    assert torch.allclose(whole.values, parts.values, atol=1e-5)


def test_a_network_of_one_part_says_that_it_keeps_everything():
    _, said = notices(lambda: fit(network("linear"), data(), **STEPS, recompute=True))
    assert said == ["no part of the network can be computed again: it keeps all its activations"]


def test_the_network_is_called_as_before_afterward():
    net = deep("residual")
    with recomputed(net, images("residual")), largest_pass(None):
        assert any(part._compiled_call_impl for part in net.modules())
    assert not any(part._compiled_call_impl for part in net.modules())


@pytest.mark.parametrize("kind", ["batchnorm", "attention"])
def test_a_network_that_is_done_with_is_let_go(kind):
    net = network(kind)
    parts_of(net, data().x)
    weights = [ref(p) for p in net.parameters()]
    del net
    gc.collect()
    assert not [held for held in weights if held() is not None]


def test_what_cannot_come_together_is_refused():
    refused(
        lambda: Training(steps=1, lr=0.1, compile=True, recompute=True), "compile", "microbatch"
    )
