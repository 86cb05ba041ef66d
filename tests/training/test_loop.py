"""Laws of the one training loop, alone, killed, and on two
ranks.
"""

import copy
import inspect
import os
import signal
import subprocess
import sys
from dataclasses import fields
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.distributed_worker import OPTIONS, job, points
from support.networks import ZOO, data, network, pair
from support.refusals import refused
from torch import nn
from torch.optim import SGD

from isthmus import Augment, BadInput, Bezier, PolyChain, expected_over_t, fit
from isthmus.runs import fast_precision, identity_of
from isthmus.training import Training, cross_entropy, in_order, one_cycle
from isthmus.training.batches import batch_indices
from isthmus.training.schedules import constant, garipov
from isthmus.training.state import held_precision

pytestmark = pytest.mark.numeric

HERE = Path(__file__).parents[1]
fit = partial(fit, device="cpu")
every_network = pytest.mark.parametrize("kind", ZOO)
every_job = pytest.mark.parametrize("kind", ["network", "curve"])


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: t.clone() for name, t in module.state_dict().items()}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def close(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(
        torch.allclose(a[name], b[name], rtol=1e-4, atol=1e-5) for name in a
    )


class Watched(SGD):
    """SGD that notes each step's learning rate and gradient norm."""

    def __init__(self, params, lr):
        super().__init__(params, lr=lr, momentum=0.9)
        self.lrs, self.norms = [], []

    def step(self, closure=None):
        grads = [p.grad for group in self.param_groups for p in group["params"]]
        self.lrs.append(self.param_groups[0]["lr"])
        self.norms.append(torch.cat([g.reshape(-1) for g in grads]).norm().item())
        return super().step(closure)


def watch(module, samples, loss=cross_entropy, **options):
    kept = []
    fit(
        module,
        samples,
        loss,
        optimizer=lambda params, lr: kept.append(Watched(params, lr)) or kept[0],
        **options,
    )
    return kept[0]


def naive_fit(kind: str, world: int = 1) -> tuple[dict, list[list[float]]]:
    """The loop as the paper writes it: replicas in one process, each with random numbers of its
    own.
    """
    replicas, streams, seen = [], [], []
    for rank in range(world):
        module, loss = job(kind)
        replicas.append(module.train())
        torch.manual_seed(OPTIONS["seed"] + rank)
        streams.append(torch.get_rng_state())
        seen.append([])
    steps, size, samples = OPTIONS["steps"], OPTIONS["batch_size"], data()
    velocity = [torch.zeros_like(p) for p in replicas[0].parameters()]
    for step in range(steps):
        for rank, module in enumerate(replicas):
            torch.set_rng_state(streams[rank])
            index = batch_indices(len(samples), size, step, OPTIONS["seed"], rank, world)
            module.zero_grad()
            points.clear()
            loss(module, OPTIONS["augment"](samples.x[index]), samples.y[index]).backward()
            seen[rank] += points
            streams[rank] = torch.get_rng_state()
        lr = OPTIONS["lr"] * garipov(step / steps)
        with torch.no_grad():
            for i, same_parameter in enumerate(
                zip(*(m.parameters() for m in replicas), strict=True)
            ):
                velocity[i] = 0.9 * velocity[i] + sum(p.grad for p in same_parameter) / world
                for p in same_parameter:
                    p -= lr * velocity[i]
    return state(replicas[0]), seen


# one process


@every_job
def test_fit_equals_the_naive_loop(kind):
    module, loss = job(kind)
    fit(module, data(), loss, **OPTIONS)
    assert close(state(module), naive_fit(kind)[0])


@every_network
def test_every_network_trains_and_keeps_what_it_must_not_change(kind):
    net = network(kind)
    held = {n: p.detach().clone() for n, p in net.named_parameters() if not p.requires_grad}
    strides = [p.stride() for p in net.parameters()]
    loss = cross_entropy(net, data().x, data().y).item()
    fit(net, data(dtype=torch.uint8), steps=60, lr=0.05, batch_size=16)
    assert cross_entropy(net, data().x, data().y).item() < loss
    assert all(torch.equal(dict(net.named_parameters())[name], was) for name, was in held.items())
    assert [p.stride() for p in net.parameters()] == strides
    assert not any(part.training for part in net.modules())
    if kind == "tied":
        assert net.mirror.weight is net.up.weight


@pytest.mark.parametrize("n", [50, 2500])
@pytest.mark.parametrize("steps", [1, 7, 40])
def test_the_budget_is_the_number_of_steps_whatever_the_number_of_samples(n, steps):
    watched = watch(network("linear"), data(n), steps=steps, lr=0.1, schedule=one_cycle)
    assert watched.lrs == pytest.approx([0.1 * one_cycle(step / steps) for step in range(steps)])


@pytest.mark.parametrize("kind", ["linear", "layernorm", "lstm"])
def test_gradients_do_not_add_up_over_steps(kind):
    watched = watch(network(kind), data(16), steps=12, lr=1e-12, batch_size=16, precision="fp32")
    assert watched.norms == pytest.approx([watched.norms[0]] * 12, rel=1e-4)
    curve, loss = Bezier(*pair("groupnorm")), expected_over_t(cross_entropy, 0.1, low=0.4, high=0.4)
    watched = watch(curve, data(16), loss, steps=12, lr=1e-12, batch_size=16, precision="fp32")
    assert watched.norms == pytest.approx([watched.norms[0]] * 12, rel=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@every_job
def test_the_same_seed_gives_the_same_bits_and_another_does_not(kind, precision):
    found = []
    for seed in (5, 5, 6):
        module, loss = job(kind)
        fit(module, data(), loss, **{**OPTIONS, "steps": 20, "seed": seed, "precision": precision})
        found.append(state(module))
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


def test_the_callers_random_numbers_are_left_alone():
    module, loss = job("curve")  # draws its weights
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    fit(module, data(), loss, **OPTIONS)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


def test_data_and_endpoints_are_left_alone():
    samples, ends = data(dtype=torch.uint8), pair("batchnorm")
    before = samples.sha256, [state(end) for end in ends]
    fit(Bezier(*ends), samples, expected_over_t(cross_entropy), steps=5, lr=0.1, augment=Augment(1))
    assert data(dtype=torch.uint8).sha256 == before[0]
    assert copy.deepcopy(samples).sha256 == before[0]
    assert all(same(state(end), was) for end, was in zip(ends, before[1], strict=True))


def test_a_projection_holds_after_every_step():
    seen = []

    def halve(module):
        seen.append(module)
        with torch.no_grad():
            module[1].weight[:2] = 0

    net = network("linear")
    fit(net, data(), steps=5, lr=0.1, after_step=halve)
    assert seen == [net] * 5
    assert not net[1].weight[:2].any()
    assert net[1].weight[2:].any()


def test_the_history_says_what_was_done():
    history = fit(network("linear"), data(), steps=30, lr=0.1, seed=4, batch_size=8)
    assert (history.steps, history.seed, history.world, len(history.losses)) == (30, 4, 1, 10)
    assert history.data_sha256 == data().sha256
    assert history.precision == fast_precision(torch.device("cpu"))
    assert history.losses[-1] < history.losses[0]
    assert history.seconds > 0
    assert len(fit(network("linear"), data(), steps=3, lr=0.1).losses) == 3


@pytest.mark.parametrize("spent", [0.0, 0.1, 0.15, 0.5, 0.6, 0.75, 0.9, 0.95, 0.999])
def test_schedules_are_the_published_ones(spent):
    expected = 1 if spent <= 0.5 else 0.01 if spent > 0.9 else 1 - 0.99 * (spent - 0.5) / 0.4
    assert garipov(spent) == pytest.approx(expected)
    assert one_cycle(spent) == pytest.approx(np.interp(spent, [0, 0.15, 1], [0, 1, 0]))
    assert constant(spent) == 1


def test_gradients_are_scaled_down_to_the_norm_asked_for_and_left_alone_below_it():
    free = watch(network("attention"), data(), steps=12, lr=0.05, batch_size=8)
    between = sorted(free.norms)[6]
    held = watch(network("attention"), data(), steps=12, lr=0.05, batch_size=8, clip=between)
    assert max(held.norms) <= between * (1 + 1e-5) < max(free.norms)
    first = next(i for i, norm in enumerate(free.norms) if norm > between)
    assert held.norms[:first] == free.norms[:first] and held.norms[first] == pytest.approx(between)
    nets = [network("attention") for _ in range(2)]
    for net, options in zip(nets, ({}, {"clip": 2 * max(free.norms)}), strict=True):
        fit(net, data(), steps=12, lr=0.05, batch_size=8, **options)
    assert same(state(nets[0]), state(nets[1]))


@given(
    n=st.integers(1, 40), size=st.integers(1, 50), world=st.integers(1, 4), seed=st.integers(0, 9)
)
@settings(max_examples=60, deadline=None)
def test_batches_are_endless_epochs_shared_out_among_ranks(n, size, world, seed):
    steps = -(-3 * n // (size * world))
    batches = [
        [batch_indices(n, size, step, seed, rank, world) for rank in range(world)]
        for step in range(steps)
    ]
    assert all(len(batch) == size for ranks in batches for batch in ranks)
    for step, ranks in enumerate(batches):
        assert torch.equal(torch.cat(ranks), batch_indices(n, size * world, step, seed))
    stream = torch.cat([torch.cat(ranks) for ranks in batches])
    for epoch in stream[: len(stream) // n * n].view(-1, n):
        assert epoch.sort().values.tolist() == list(range(n))
    if n > 10:
        assert not torch.equal(stream[:n], stream[n : 2 * n])


@pytest.mark.parametrize(
    ("module", "options", "words"),
    [
        ("linear", {"steps": 0}, "steps = 0"),
        ("linear", {"lr": 0.0}, "lr = 0.0"),
        ("linear", {"lr": float("nan")}, "lr = nan"),
        ("linear", {"batch_size": 0}, "batch_size = 0"),
        ("linear", {"precision": "fp8"}, "precision 'fp8'"),
        ("linear", {"device": "abacus"}, "device 'abacus'"),
        (
            "linear",
            {"lr": 1e38, "steps": 20, "schedule": constant},
            "a loss of (nan|inf) before step",
        ),
        (
            "linear",
            {"lr": 1e38, "steps": 1, "loss": lambda *args: 1e5 * cross_entropy(*args)},
            "weights that are NaN or infinite after the last step",
        ),
        (
            "batchnorm",
            {"lr": 1e5, "steps": 3, "schedule": constant, "precision": "fp32"},
            "statistics of BatchNorm that are NaN or infinite.*; lower lr \\(now 100000\\)$",
        ),
        ("linear", {"lr": 1e39}, "lr = 1e[+]39"),
        ("nothing", {}, "nothing to train"),
    ],
)
def test_what_cannot_be_trained_ends_in_one_clear_line(module, options, words):
    module = network(module) if module in ZOO else Bezier(*pair("linear"), bends=0)
    with pytest.raises(BadInput, match=words) as caught:
        fit(module, data(), **{"steps": 2, "lr": 0.1, **options})
    assert "\n" not in str(caught.value)


# interrupted


@every_job
def test_a_killed_run_goes_on_to_the_identical_result(kind, tmp_path):
    file = tmp_path / "state"
    call = f"distributed_worker.killed({kind!r}, {str(file)!r})"
    command = f"from support import distributed_worker; {call}"
    run = subprocess.run([sys.executable, "-c", command], cwd=HERE, capture_output=True, text=True)
    assert run.returncode == -signal.SIGKILL, run.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [".state.lock", "state"]
    assert torch.load(file, weights_only=True)["step"] == 14
    (resumed, loss), (through, _) = job(kind), job(kind)
    taken_up = fit(resumed, data(), loss, checkpoint=file, **OPTIONS)
    assert taken_up.losses == fit(through, data(), loss, **OPTIONS).losses
    assert same(state(resumed), state(through))
    finished, _ = job(kind)
    points.clear()
    fit(finished, data(), loss, checkpoint=file, **OPTIONS)
    assert not points, "a finished run is not trained again"
    assert same(state(finished), state(through))


def test_slow_steps_are_saved_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr("isthmus.training.loop.SAVED_WITHIN", 0.0)
    file, steps = tmp_path / "state", []

    def interrupt(module):
        steps.append(module)
        if len(steps) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(network(next(iter(ZOO))), data(), checkpoint=file, after_step=interrupt, **BASE)
    assert torch.load(file, weights_only=True)["step"] == 3


def double(x):
    return x


BASE = {"steps": 4, "lr": 0.1, "batch_size": 8}
CHANGED = {
    "steps": 5,
    "lr": 0.2,
    "batch_size": 9,
    "momentum": 0.8,
    "weight_decay": 0.1,
    "clip": 0.5,
    "nesterov": True,
    "seed": 1,
    "schedule": constant,
    "augment": double,
    "precision": "bf16",
    "compile": True,
    "microbatch": 3,
    "recompute": True,
    "shard": True,
    "optimizer": torch.optim.Adagrad,
    "after_step": double,
}
HARMLESS = {"device", "progress", "checkpoint", "checkpoint_every"}


def test_every_option_but_the_harmless_is_held_against_a_checkpoint():
    keywords = {
        p.name for p in inspect.signature(fit.func).parameters.values() if p.kind == p.KEYWORD_ONLY
    }
    options = {option.name for option in fields(Training)}
    assert keywords - {"training"} | options == CHANGED.keys() | HARMLESS


def test_options_are_fields_of_a_training_and_replace_its_own():
    nets = [network("linear") for _ in range(3)]
    training = Training(**{**BASE, "lr": 0.3}, precision="fp32", device="cpu")
    fit(nets[0], data(), **BASE, precision="fp32")
    fit(nets[1], data(), training=training, lr=BASE["lr"])
    fit(nets[2], data(), training=training)
    assert same(state(nets[0]), state(nets[1])) and not same(state(nets[0]), state(nets[2]))
    assert training.lr == 0.3 and hash(training) == hash(training.replace())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({**BASE, "learning_rate": 0.1}, "learning_rate"),
        ({**BASE, "step": 3}, "did you mean steps"),
        ({"lr": 0.1}, "no steps"),
        ({"steps": 3}, "no lr"),
        ({**BASE, "momentum": -0.1}, "momentum = -0.1"),
        ({**BASE, "momentum": 0.0, "nesterov": True}, "nesterov = True"),
        ({**BASE, "weight_decay": float("inf")}, "weight_decay = inf"),
        ({**BASE, "clip": 0.0}, "clip = 0"),
        ({**BASE, "microbatch": 0}, "microbatch = 0"),
        ({**BASE, "compile": True, "recompute": True}, "compile and recompute"),
        ({**BASE, "compile": True, "shard": True}, "compile and shard"),
        ({**BASE, "microbatch": 4, "shard": True}, "microbatch and shard"),
        ({**BASE, "after_step": double, "shard": True}, "after_step"),
    ],
)
def test_an_option_that_is_none_is_refused_in_one_line(options, words):
    refused(lambda: fit(network("linear"), data(), **options), words)


def test_hooks_are_called_in_order_and_are_part_of_what_a_run_is(tmp_path):
    calls = []
    hooks = [lambda module, name=name: calls.append(name) for name in "ab"]
    fit(network("linear"), data(), **{**BASE, "steps": 2}, after_step=in_order(None, *hooks))
    assert calls == ["a", "b", "a", "b"]
    assert in_order(None, None) is None and in_order(double) is double
    options = {**BASE, "checkpoint": tmp_path / "state"}
    fit(network("linear"), data(), **options, after_step=in_order(double, abs_))
    with pytest.raises(BadInput, match=r"different run \(after_step"):
        fit(network("linear"), data(), **options, after_step=in_order(abs_, double))


def abs_(x):
    return x


@pytest.mark.parametrize("option", CHANGED)
def test_the_checkpoint_of_another_run_is_refused(option, tmp_path):
    fit(network("linear"), data(), checkpoint=tmp_path / "state", precision="fp32", **BASE)
    options = {"precision": "fp32", **BASE, option: CHANGED[option]}
    net = network("linear")
    before = state(net)
    with pytest.raises(BadInput, match=f"different run .{option}: ") as caught:
        fit(net, data(), checkpoint=tmp_path / "state", **options)
    assert "\n" not in str(caught.value)
    assert same(state(net), before)


@pytest.mark.parametrize(
    ("curve", "samples", "loss", "key"),
    [
        (Bezier(*pair("linear")), data(seed=1), expected_over_t(cross_entropy), "data"),
        (Bezier(*pair("linear")), data(), expected_over_t(cross_entropy, 0.1), "loss"),
        (Bezier(*pair("linear"), bends=2), data(), expected_over_t(cross_entropy), "module"),
        (PolyChain(*pair("linear")), data(), expected_over_t(cross_entropy), "module"),
        (
            Bezier(network("linear", 1), network("linear", 3)),
            data(),
            expected_over_t(cross_entropy),
            "module",
        ),
    ],
)
def test_the_checkpoint_of_another_curve_loss_or_set_is_refused(
    curve, samples, loss, key, tmp_path
):
    fit(
        Bezier(*pair("linear")),
        data(),
        expected_over_t(cross_entropy),
        checkpoint=tmp_path / "state",
        **BASE,
    )
    with pytest.raises(BadInput, match=f"different run .{key}: "):
        fit(curve, samples, loss, checkpoint=tmp_path / "state", **BASE)


def test_the_checkpoint_of_a_module_with_another_setting_is_refused(tmp_path):
    def dropped(share):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Dropout(share), *network("linear"))

    fit(dropped(0.1), data(), checkpoint=tmp_path / "state", **BASE)
    fit(dropped(0.1), data(), checkpoint=tmp_path / "state", **BASE)
    with pytest.raises(BadInput, match=r"different run \(module: "):
        fit(dropped(0.2), data(), checkpoint=tmp_path / "state", **BASE)


YOUNGER = sorted(CHANGED.keys() - BASE.keys() - {"after_step", "precision"})
"""Options that an older state may lack: those with a default, which no state resolves."""


@pytest.mark.parametrize("option", YOUNGER)
def test_a_state_that_is_older_than_an_option_was_saved_with_its_default(option, tmp_path):
    options = {**BASE, "precision": "fp32", "checkpoint": tmp_path / "state"}
    whole = network("linear")
    fit(whole, data(), **options)
    saved = torch.load(tmp_path / "state", weights_only=True)
    del saved["identity"][option]
    torch.save(saved, tmp_path / "state")
    resumed = network("linear")
    fit(resumed, data(), **options)
    assert same(state(resumed), state(whole))
    with pytest.raises(BadInput, match=f"different run .{option}: "):
        fit(network("linear"), data(), **options, **{option: CHANGED[option]})


def test_two_trainings_with_one_state_are_refused(tmp_path):
    file = tmp_path / "state"

    def again(_):
        fit(network("linear"), data(), checkpoint=file, **BASE)

    refused(
        lambda: fit(network("linear"), data(), checkpoint=file, after_step=again, **BASE),
        "on which another process works",
    )
    again(None)
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


class Plain:
    def __init__(self, step) -> None:
        self.step = step


@pytest.mark.parametrize(
    "make",
    [
        lambda a: partial(double, a, b=[double]),
        lambda a: (a, [double, {"k": double}]),
        lambda a: expected_over_t(partial(double, a)),
        lambda a: lambda x: x * a,
        lambda a: Plain(a),
        lambda a: torch.full((2000,), float(a)).index_fill(0, torch.tensor([1000]), 7.0),
        lambda a: torch.optim.SGD if a == 1 else torch.optim.Adam,
        lambda a: torch.Generator().manual_seed(a),
    ],
)
def test_settings_are_recognized_by_what_they_say_not_where_they_lie(make):
    one, again, other = identity_of(make(1)), identity_of(make(1)), identity_of(make(2))
    assert one == again != other
    assert " at 0x" not in one


@pytest.mark.parametrize("content", [b"", b"not a state", "weights", "list"])
def test_a_file_that_is_no_training_state_is_refused_and_kept(content, tmp_path):
    file = tmp_path / "state"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(network("linear").state_dict() if content == "weights" else [1], file)
    before = file.read_bytes()
    with pytest.raises(BadInput, match="no training state") as caught:
        fit(network("linear"), data(), checkpoint=file, **BASE)
    assert "\n" not in str(caught.value)
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        *({name: None} for name in ("identity", "step", "since", "total", "module", "optimizer")),
        {"random": []},
        {"losses": "many"},
        {"step": 10**6},
        {"step": -1},
    ],
    ids=str,
)
def test_a_state_that_does_not_fit_together_is_refused(change, tmp_path):
    file = tmp_path / "state"
    fit(network("linear"), data(), checkpoint=file, **BASE)
    torch.save(torch.load(file, weights_only=True) | change, file)
    with pytest.raises(BadInput, match="no training state"):
        fit(network("linear"), data(), checkpoint=file, **BASE)


def test_a_flipped_bit_in_a_saved_weight_is_noticed(tmp_path):
    file = tmp_path / "state"
    net = network("linear")
    fit(net, data(), checkpoint=file, **BASE)
    weight = next(net.parameters()).detach().numpy().tobytes()
    whole = bytearray(file.read_bytes())
    whole[whole.index(weight) + 6] ^= 1
    assert held_precision(file) in ("fp32", "bf16")
    file.write_bytes(whole)
    assert held_precision(file) is None
    with pytest.raises(BadInput, match="no training state"):
        fit(network("linear"), data(), checkpoint=file, **BASE)


# two ranks


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two processes under torchrun ended with, by job."""
    folder = tmp_path_factory.mktemp("ranks")
    launch = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "support.distributed_worker",
    ]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(
        [sys.executable, *launch, str(folder)],
        cwd=HERE,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    ends: dict[str, list] = {
        kind: [torch.load(folder / f"{kind}-{rank}.pt", weights_only=True) for rank in range(2)]
        for kind in ("network", "curve")
    }
    texts = {
        name: [(folder / f"{name}-{rank}.txt").read_text() for rank in range(2)]
        for name in ("threads", "precisions")
    }
    return ends | texts


def test_a_rank_that_has_parted_from_the_others_has_no_threads_left(ranks):
    """Threads that outlive the interpreter bring the process down now and then."""
    assert ranks["threads"] == ["", ""]


def test_ranks_train_in_the_precision_that_the_first_one_decides(ranks):
    first, second = ranks["precisions"]
    assert first == second and set(first.split()) <= {"fp32", "bf16"}


@every_job
def test_two_ranks_end_with_the_same_bits_those_of_the_naive_average(kind, ranks):
    first, second = ranks[kind]
    assert first["world"] == second["world"] == 2
    assert same(first["through"], second["through"])
    assert first["losses"] == second["losses"]
    expected, seen = naive_fit(kind, world=2)
    assert close(first["through"], expected)
    assert [first["points"], second["points"]] == [pytest.approx(each, rel=1e-4) for each in seen]


def test_each_rank_draws_its_own_t(ranks):
    first, second = (rank["points"] for rank in ranks["curve"])
    assert len(first) == len(second) == OPTIONS["steps"]
    assert not set(first) & set(second)


@every_job
def test_an_interrupted_run_on_two_ranks_goes_on_to_the_identical_result(kind, ranks):
    for rank in ranks[kind]:
        assert same(rank["resumed"], rank["through"])


@pytest.mark.parametrize("option", ["steps", "lr", "batch_size", "momentum", "weight_decay"])
def test_a_text_in_place_of_a_number_is_refused_in_one_line(option):
    with pytest.raises(BadInput, match=f"{option} = '3'.+a number"):
        fit(network("linear"), data(), **{**BASE, option: "3"})
