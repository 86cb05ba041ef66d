"""Work that runs out of memory goes on in smaller parts, to what the whole would have given."""

import subprocess
import sys

import pytest
import torch
from support.networks import data, network
from support.noticed import notices
from support.refusals import refused
from torch import nn

from isthmus.attacks import PGD
from isthmus.curves import Bezier, connect
from isthmus.data import Linf
from isthmus.defenses import universal_perturbations
from isthmus.detection import ManifoldDetector
from isthmus.metrics import attacked, input_hessian
from isthmus.models import recalibrate
from isthmus.models.forward import forward_pass, outputs
from isthmus.models.memory import largest_pass, out_of_memory
from isthmus.training import Training, cross_entropy, fit, sharpness_aware, trades

ERRORS = {
    "accelerator": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "cpu": RuntimeError(
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
    ),
}


class Small(nn.Module):
    """A network that has memory for a few samples and remembers how many it was given."""

    def __init__(self, net, room, error="cpu"):
        super().__init__()
        self.net, self.room, self.error, self.sizes = net, room, error, []

    def forward(self, x):
        if len(x) > self.room:
            raise ERRORS[self.error]
        self.sizes.append(len(x))
        return self.net(x)


def small(room, kind="layernorm", error="cpu"):
    return Small(network(kind), room, error)


def end_at_once(net):
    """Raise after as many steps as the network says, as a kill would end a run."""
    net.ends = getattr(net, "ends", 0) - 1
    if net.ends == 0:
        raise ZeroDivisionError


@pytest.mark.parametrize("error", ERRORS)
def test_a_pass_is_halved_until_it_fits_with_one_line_each_time(error):
    net = small(13, error=error)
    x = data(48).x
    got, said = notices(lambda: outputs(net, x, batch_size=48))
    assert torch.equal(got, outputs(network("layernorm"), x, batch_size=12))
    assert said == [
        "memory ran out at 48 samples in a pass: 24 at a time from here on",
        "memory ran out at 24 samples in a pass: 12 at a time from here on",
    ]
    assert max(net.sizes) == 12
    _, said = notices(lambda: outputs(net, x, batch_size=48))
    assert not said, "what fits is remembered"


def test_one_sample_that_does_not_fit_is_refused():
    refused(lambda: outputs(small(0), data(4).x), "runs out of memory on one sample")
    one = {"steps": 1, "lr": 0.1, "batch_size": 8}
    words = ("a batch of 8 samples", "on each of them", "--recompute")
    assert "microbatch" not in refused(lambda: fit(small(0), data(), **one), *words)


def test_a_microbatch_beyond_the_batch_is_the_batch():
    options = {"steps": 1, "lr": 0.1, "batch_size": 8, "precision": "fp32", "microbatch": 1000}
    _, said = notices(lambda: fit(small(4), data(), **options))
    assert [line.partition(":")[0] for line in said] == [
        "memory ran out at 8 samples in a pass with gradients"
    ]


@pytest.mark.parametrize(
    "loss",
    [cross_entropy, sharpness_aware(rho=0.1), trades(PGD(Linf(0.05), steps=2, seed=0))],
    ids=["cross-entropy", "sharpness", "trades"],
)
def test_training_in_halves_is_training(loss):
    whole, parts = network("layernorm"), small(6)
    options = {"steps": 4, "lr": 0.2, "batch_size": 16, "precision": "fp32"}
    expected = fit(whole, data(), loss, **options)
    history, said = notices(lambda: fit(parts, data(), loss, **options))
    assert len(said) == 2 and max(parts.sizes) <= 6
    assert history.losses == pytest.approx(expected.losses, rel=1e-4)
    for a, b in zip(whole.parameters(), parts.net.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_universal_perturbations_in_halves_are_those_of_whole_batches():
    search = Training(steps=6, lr=0.1, batch_size=16, precision="fp32")
    whole, before = notices(lambda: universal_perturbations(network("layernorm"), data(), search))
    parts, said = notices(lambda: universal_perturbations(small(6), data(), search))
    halved = [line for line in said if "memory ran out" in line]
    assert len([line for line in halved if "with gradients" in line]) == 2
    assert set(said) == {*before, *halved}
    assert torch.allclose(whole.values, parts.values, atol=1e-5)
    assert torch.equal(whole.radii, parts.radii)


def test_a_detector_in_halves_is_that_of_whole_passes():
    net, x = small(6), data(seed=1).x
    whole = ManifoldDetector("knn", 5, "2").fit(data(), network("layernorm")).score(x)
    parts, said = notices(lambda: ManifoldDetector("knn", 5, "net.2").fit(data(), net).score(x))
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)
    assert max(net.sizes) == 6 and len(said) == 3


def test_a_detector_of_pixels_is_halved_too():
    detector = ManifoldDetector("knn", 5).fit(data())
    x = data(seed=1).x
    whole, distances, sizes = detector.score(x), detector.distances, []

    def distances_of_few(x):
        if len(x) > 6:
            raise ERRORS["cpu"]
        sizes.append(len(x))
        return distances(x)

    detector.distances = distances_of_few
    parts, said = notices(lambda: detector.score(x))
    torch.testing.assert_close(parts, whole)
    assert max(sizes) == 6 and said


def test_a_curve_in_halves_draws_the_same_t():
    ends = [network("layernorm", seed) for seed in (0, 1)]
    options = {"bends": 1, "steps": 4, "batch_size": 16, "precision": "fp32"}
    whole, _ = connect(*ends, data(), **options)
    parts, _ = connect(*(Small(end, 6) for end in ends), data(), **options)
    assert torch.allclose(whole.bends, parts.bends, atol=1e-5)
    assert isinstance(parts, Bezier)


def test_batchnorm_takes_its_statistics_from_each_part_once():
    net, twin = network("batchnorm").train(), network("batchnorm").train()
    x = data(12).floats()
    torch.manual_seed(0)
    with largest_pass(4):
        logits = forward_pass(net, x)
        logits.square().sum().backward()
    torch.manual_seed(0)  # as at the start: the network drops out
    again = torch.cat([twin(part) for part in x.split(4)])
    again.square().sum().backward()
    assert torch.equal(logits, again)
    for a, b in zip(net.buffers(), twin.buffers(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-5)


def test_a_resumed_run_keeps_its_passes(tmp_path):
    options = {"lr": 0.1, "steps": 4, "batch_size": 16, "checkpoint_every": 1}
    options["after_step"] = end_at_once
    whole = small(6)
    fit(whole, data(), **options)
    killed = small(6)
    killed.ends = 3
    with pytest.raises(ZeroDivisionError):
        fit(killed, data(), checkpoint=tmp_path / "s", **options)
    resumed = small(6)
    _, said = notices(lambda: fit(resumed, data(), checkpoint=tmp_path / "s", **options))
    assert not said
    assert all(
        torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True)
    )


def test_recalibration_in_halves_says_what_it_depends_on():
    net = small(30, kind="batchnorm")
    (_, said) = notices(lambda: recalibrate(net, data(48)))
    assert said == [
        "memory ran out at 48 samples in a batch for BatchNorm: 24 at a time from here on"
    ]
    expected = recalibrate(network("batchnorm"), data(48), batch_size=24)
    for a, b in zip(net.net.buffers(), expected.buffers(), strict=True):
        assert torch.equal(a, b)


def test_an_attack_and_curvature_go_on_in_halves():
    attack = PGD(Linf(0.05), steps=2, seed=0)
    moved, said = notices(lambda: attacked(small(20), data(48), attack))
    assert len(moved) == 48 and len(said) == 2
    samples = data(12)
    got, said = notices(lambda: input_hessian(small(5), samples.x, samples.y))
    expected = input_hessian(network("layernorm"), samples.x, samples.y)
    assert said and torch.allclose(got.top, expected.top, rtol=1e-2)


REAL = """
import resource, warnings
import torch
from torch import nn
from isthmus import Data
from isthmus.models.forward import outputs
from isthmus.training import fit

torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(1, 512, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                    nn.Linear(512, 2))
data = Data(torch.rand(192, 1, 34, 34), torch.arange(192) % 2, classes=2)
outputs(net, data.x[:2])  # what torch allocates once
fit(net, data, steps=1, lr=1e-9, batch_size=2, precision="fp32")
expected = outputs(net, data.x, batch_size=4)
used = next(int(line.split()[1]) for line in open("/proc/self/status") if "VmSize" in line)
limit = used * 1024 + 300 * 2**20  # a pass of 192 takes 400 MB a layer
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
warnings.simplefilter("always")
assert torch.allclose(outputs(net, data.x, batch_size=192), expected, atol=1e-4)
history = fit(net, data, steps=2, lr=0.01, batch_size=192, precision="fp32")
print("steps", history.steps)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and limits address space")
def test_a_real_allocation_that_fails_is_survived():
    done = subprocess.run([sys.executable, "-c", REAL], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "steps 2" in done.stdout
    assert "samples in a pass" in done.stderr and "samples in a pass with grad" in done.stderr


def test_what_says_that_memory_ran_out():
    assert all(map(out_of_memory, [*ERRORS.values(), MemoryError()]))
    assert not out_of_memory(ValueError("out of memory"))
    assert not out_of_memory(RuntimeError("shape '[2]' is invalid"))
