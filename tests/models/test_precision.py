"""What `auto` stands for: the precision of the quicker step, with times that the test gives."""

import pytest
import torch
from support.networks import data, network
from torch import nn

from isthmus.models import precision
from isthmus.models.precision import CLEARLY, decided_precision, quicker
from isthmus.training import Training, fit, with_decided_precision

CPU = torch.device("cpu")


@pytest.fixture
def timed(monkeypatch):
    """Let the hardware offer bf16 and the test say how long a step takes; yield what was timed."""
    seconds, steps = {"fp32": 1.0, "bf16": 1.0}, []

    def step(module, images, device, kind):
        steps.append((len(images), kind))
        return seconds[kind]

    monkeypatch.delenv("ISTHMUS_PRECISION")
    monkeypatch.setattr(precision, "fast_precision", lambda device: "bf16")
    monkeypatch.setattr(precision, "_step_seconds", step)
    monkeypatch.setattr(precision, "_chosen", {})
    return seconds, steps


@pytest.mark.parametrize(
    ("full", "half", "expected"),
    [(1.0, 0.5, "bf16"), (1.0, CLEARLY, "bf16"), (1.0, 0.9, "fp32"), (1.0, 2.0, "fp32")],
)
def test_bf16_is_taken_where_it_is_clearly_quicker(full, half, expected):
    assert quicker(lambda kind: {"fp32": full, "bf16": half}[kind]) == expected


@pytest.mark.parametrize(
    ("full", "half", "expected"),
    [
        ([0.1, 1.0], [9.0, 0.5], "bf16"),  # clear at once
        ([9.0, 1.0], [0.1, 1.1], "fp32"),
        ([1.0, 1.0, 5.0, 5.0], [1.0, 0.9, 0.9, 0.8], "bf16"),  # the fastest of three
        ([1.0, 1.0, 5.0, 5.0], [1.0, 0.9, 0.9, 0.9], "fp32"),
    ],
)
def test_the_first_step_does_not_count_and_doubt_is_timed_again(full, half, expected):
    times = {"fp32": iter(full), "bf16": iter(half)}
    assert quicker(lambda kind: next(times[kind])) == expected
    assert not [*times["fp32"], *times["bf16"]]


def test_a_precision_in_which_a_network_fails_is_not_taken():
    def step(kind):
        if kind == "bf16":
            raise RuntimeError("not implemented for 'BFloat16'")
        return 1.0

    assert quicker(step) == "fp32"


def test_one_network_and_batch_is_timed_once_with_a_whole_batch(timed):
    seconds, steps = timed
    seconds["bf16"] = 0.5
    x = data(6).x
    assert decided_precision(network("batchnorm"), x, 16, CPU, "auto") == "bf16"
    assert {count for count, _ in steps} == {16}
    seconds["bf16"] = 2.0
    once = len(steps)
    assert decided_precision(network("batchnorm", 1), x, 16, CPU, "auto") == "bf16"
    assert len(steps) == once
    assert decided_precision(network("batchnorm"), x, 8, CPU, "auto") == "fp32"
    assert decided_precision(network("linear"), x, 16, CPU, "auto") == "fp32"


def test_nothing_is_timed_where_there_is_nothing_to_choose(timed, monkeypatch):
    _, steps = timed
    x = data(4).x
    assert decided_precision(network("linear"), x, 4, CPU, "bf16") == "bf16"
    assert decided_precision(network("linear").double(), x, 4, CPU, "auto") == "fp32"
    monkeypatch.setenv("ISTHMUS_PRECISION", "bf16")
    assert decided_precision(network("linear"), x, 4, CPU, "auto") == "bf16"
    monkeypatch.delenv("ISTHMUS_PRECISION")
    monkeypatch.setattr(precision, "fast_precision", lambda device: "fp32")
    assert decided_precision(network("linear"), x, 4, CPU, "auto") == "fp32"
    assert not steps


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("kind", ["fp32", "bf16"])
def test_timing_a_step_changes_nothing(kind, frozen):
    net = network("dropout").train().requires_grad_(not frozen)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state, x = torch.get_rng_state(), data(8).x
    assert precision._step_seconds(net, x, CPU, kind) > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert net.training and all(p.grad is None for p in net.parameters())


def test_training_takes_the_quicker_precision_and_a_resumed_one_that_of_its_state(
    timed, tmp_path, monkeypatch
):
    seconds, _ = timed
    seconds["bf16"] = 0.5
    options = {"lr": 0.1, "steps": 6, "checkpoint": tmp_path / "state", "checkpoint_every": 3}
    expected = network("batchnorm")
    assert fit(expected, data(), **options | {"checkpoint": None}).precision == "bf16"

    class Killed(Exception):
        pass

    def kill(net, calls=[]):  # noqa: B006
        calls.append(net)
        if len(calls) == 4:
            raise Killed

    with pytest.raises(Killed):
        fit(network("batchnorm"), data(), after_step=kill, **options)
    seconds["bf16"] = 2.0
    monkeypatch.setattr(precision, "_chosen", {})
    resumed = network("batchnorm")
    history = fit(resumed, data(), after_step=kill, **options)
    assert history.precision == "bf16"
    assert all(
        torch.equal(a, b) for a, b in zip(resumed.parameters(), expected.parameters(), strict=True)
    )


@pytest.mark.parametrize("several", [False, True])
def test_a_step_that_is_timed_keeps_no_more_than_one_of_the_training(several, monkeypatch):
    monkeypatch.delenv("ISTHMUS_PRECISION")
    monkeypatch.setattr(precision, "fast_precision", lambda device: "bf16")
    monkeypatch.setattr(precision, "_chosen", {})
    net, sizes = network("layernorm"), []
    net.register_forward_pre_hook(lambda part, inputs: sizes.append(len(inputs[0])))
    training = Training(steps=1, lr=0.1, batch_size=16, microbatch=4)
    if several:
        assert with_decided_precision(training, net, data()).precision in ("fp32", "bf16")
    else:
        fit(net, data(), training=training)
    assert len(sizes) > 8 and max(sizes) == 4


def test_a_run_of_several_trainings_decides_once_and_remembers(timed, tmp_path, monkeypatch):
    seconds, steps = timed
    seconds["bf16"] = 0.5
    auto = Training(steps=2, lr=0.1)
    assert with_decided_precision(auto, network("batchnorm"), data(), tmp_path).precision == "bf16"
    seconds["bf16"] = 2.0
    monkeypatch.setattr(precision, "_chosen", {})
    assert with_decided_precision(auto, network("batchnorm"), data(), tmp_path).precision == "bf16"
    assert with_decided_precision(auto, network("batchnorm"), data()).precision == "fp32"
    once = len(steps)
    asked = auto.replace(precision="bf16")
    assert with_decided_precision(asked, network("batchnorm"), data()).precision == "bf16"
    assert len(steps) == once


def test_a_network_that_cannot_be_timed_is_trained_all_the_same(monkeypatch):
    monkeypatch.delenv("ISTHMUS_PRECISION")
    monkeypatch.setattr(precision, "fast_precision", lambda device: "bf16")
    monkeypatch.setattr(precision, "_chosen", {})

    class Image(nn.Module):
        """A network that returns an image, which is no logits."""

        def __init__(self):
            super().__init__()
            self.body = nn.Conv2d(1, 1, 1)

        def forward(self, x):
            return self.body(x)

    images = data(4).x[:, :1]
    pairs = (images, torch.zeros(4, dtype=torch.long))
    history = fit(Image(), pairs, lambda net, x, y: (net(x) - x).square().mean(), steps=2, lr=0.1)
    assert history.precision == "fp32"
