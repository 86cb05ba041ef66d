"""`isthmus prune` and `isthmus quantize`: their figures, their files, and what they refuse."""

import importlib
import json
import re

import pytest
import torch
from jsonschema import Draft202012Validator
from support.command_line import isthmus

from isthmus import load_data
from isthmus.compression import Compressed, quantize
from isthmus.evidence.schema import schema
from isthmus.models import load_checkpoint, model_factory, save_checkpoint
from isthmus.runs import file_sha256
from isthmus.types import BadInput

TRADED = ("--loss", "trade-off", "--beta", 3, "--eps", 0.05, "--attack-steps", 1)
NET = "isthmus.models:small_cnn,channels=1,width=8"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compression")
    options = ("--steps", 120, "--lr", 0.1, "--out", "net.safetensors")
    done = isthmus("train", "--model", NET, "--data", "digits:train", *options, folder=folder)
    assert done.returncode == 0, done.stderr
    return folder


def compressed(command, folder, *options):
    return isthmus(
        *(command, "net.safetensors", "--model", NET, "--clean", "digits:train#n=400"),
        *("--data", "digits:test#n=100", *options),
        folder=folder,
    )


def checked(folder, name):
    """The record of a run, and its network read back from the small file."""
    record = json.loads((folder / name / "report.json").read_text())
    page = (folder / name / "report.html").read_text()
    assert "http" not in page.replace("http-equiv", "")
    small = Compressed.load(folder / name / "compressed.safetensors", model_factory(NET)())
    assert small.record == record["compressed"]
    Draft202012Validator(schema("compression")).validate(record)
    weights = record["provenance"]["checkpoint"]["sha256"]
    assert weights == file_sha256(folder / "net.safetensors")
    assert (folder / name / "compressed.safetensors").stat().st_size == record["after"]["bytes"]
    assert record["after"]["bytes"] < record["before"]["bytes"]
    return record, small.model


def test_pruning_to_a_fifth_of_the_weights(folder):
    options = ("--density", 0.2, "--steps", 40, "--attack", "pgd", "--eps", "0.05")
    done = compressed("prune", folder, *options, "--attack-steps", 3, "--out", "weights")
    assert done.returncode == 0, done.stderr
    record, model = checked(folder, "weights")
    assert record["compressed"]["kept"] == round(0.2 * record["compressed"]["units"])
    for side in ("before", "after"):
        values = record[side]["metrics"]
        assert values["robust accuracy"]["value"] <= values["accuracy"]["value"]
    assert record["after"]["metrics"]["accuracy"]["value"] > 0.6
    assert (
        record["after"]["multiply-adds with a nonzero weight"]
        < 0.7 * record["after"]["multiply-adds"]
    )
    plain = load_checkpoint(folder / "weights/network.safetensors", model_factory(NET)())
    x = load_data("digits:test#n=20").floats()
    with torch.no_grad():
        torch.testing.assert_close(plain.eval()(x), model(x), rtol=1e-5, atol=1e-5)
    assert compressed("prune", folder, *options, "--out", "weights").returncode == 2
    again = isthmus("report", "weights/report.json", "--out", "again", folder=folder)
    assert again.returncode == 0, again.stderr
    pages = [(folder / name / "report.html").read_text() for name in ("weights", "again")]
    assert pages[0] == pages[1]


def test_the_zeros_of_a_sparse_network_are_not_lost_in_silence(folder):
    """By hand: a fifth of the weights of its layers stay."""
    net = model_factory(NET)()
    with torch.no_grad():
        for weight in net.parameters():
            if weight.dim() > 1:
                weight.flatten()[: round(0.8 * weight.numel())] = 0
    save_checkpoint(net, folder / "sparse.safetensors")
    words = "80.0\xa0% of the weights of sparse.safetensors are 0, and nothing holds them there"
    start = ("sparse.safetensors", "--model", NET)
    clean = ("--clean", "digits:train#n=100", "--data", "digits:test#n=50")
    rounding = ("--method", "post-training", "--layers", "all", "--bits")
    for i, (options, told) in enumerate(
        [
            (("quantize", *rounding, 8), False),
            (("quantize", *rounding, "ternary"), False),
            (("quantize", *rounding, 2), True),  # levels without a 0
            (("quantize", *rounding, 1), True),
            (("quantize", "--steps", 1), True),
            (("prune", "--density", 0.1, "--steps", 0), False),
            (("prune", "--density", 0.5, "--steps", 1), True),
        ]
    ):
        command, *given = options
        out = ("--out", f"sparse-{i}")
        done = isthmus(command, *start, *clean, *given, *out, folder=folder)
        assert done.returncode == 0 and (words in done.stderr) is told, (options, done.stderr)
    for command in (
        ("align", "net.safetensors", *start, *clean[:2], "--out", "sparse-aligned.safetensors"),
        ("flip", *start, "--flips", 1, "--clamp", "--out", "sparse-flipped.safetensors"),
    ):
        done = isthmus(*command, folder=folder)
        assert done.returncode == 0 and "are 0" not in done.stderr, done.stderr
    more = ("--init", "sparse.safetensors", "--steps", 1, "--out", "dense.safetensors")
    done = isthmus("train", "--model", NET, "--data", "digits:train", *more, folder=folder)
    assert done.returncode == 0 and words in done.stderr
    done = isthmus("prune", "net.safetensors", *start[1:], *clean, "--density", 2, folder=folder)
    assert "are 0" not in done.stderr


def test_rounding_what_was_pruned_makes_its_file_smaller_and_says_so(folder):
    pruned = ("--density", 0.1, "--steps", 10, "--out", "pruned")
    assert compressed("prune", folder, *pruned).returncode == 0
    file = folder / "pruned/compressed.safetensors"
    done = isthmus(
        *("quantize", file, "--model", NET, "--method", "post-training", "--bits", 8),
        *("--clean", "digits:train#n=400", "--data", "digits:test#n=100", "--out", "pruned-8"),
        folder=folder,
    )
    assert done.returncode == 0 and "are 0" not in done.stderr, done.stderr
    record = json.loads((folder / "pruned-8/report.json").read_text())
    passed, after = record["bytes of the file passed"], record["after"]["bytes"]
    assert passed == file.stat().st_size and after < passed
    beside = f"and {passed / after:.1f} times smaller than the file that was passed"
    assert beside in record["verdict"] and beside in " ".join(done.stdout.split())
    page = (folder / "pruned-8/report.html").read_text()
    assert beside in page and f"{passed:,}" in page
    assert "nothing was trained" in page and "cross_entropy" not in page


def test_channels_leave_a_smaller_network(folder):
    options = ("--density", 0.5, "--structure", "channels", "--steps", 20, "--out", "channels")
    done = compressed("prune", folder, *options)
    assert done.returncode == 0, done.stderr
    record, _ = checked(folder, "channels")
    assert record["compressed"]["smaller"]
    assert record["after"]["multiply-adds"] < 0.6 * record["before"]["multiply-adds"]
    assert not (folder / "channels/network.safetensors").exists()
    assert "no channels/network.safetensors is written" in done.stdout


@pytest.mark.parametrize("command", ["prune", "quantize"])
def test_a_training_that_diverged_says_so_and_writes_nothing(command, folder):
    given = ("--density", 0.2) if command == "prune" else ("--bits", 4)
    lost = ("--steps", 8, "--lr", 1e6, "--out", f"lost/{command}")
    done = compressed(command, folder, *given, *lost)
    assert done.returncode == 2 and "lower lr (now 1e+06)" in done.stderr, done.stderr
    assert not (folder / "lost").exists()


def test_a_run_that_was_killed_or_refused_is_in_nobodys_way(folder, monkeypatch):
    """Killed before its report, then on a disk that is full at the page, then whole; what is the
    user's stays, and with it the run is refused.
    """

    def full(path, text):
        raise BadInput(f"{path}, which could not be written", expected="room", fix="free some")

    options = ("--bits", 4, "--method", "post-training", "--out", "cut")
    assert compressed("quantize", folder, *options).returncode == 0
    whole = sorted(each.name for each in (folder / "cut").iterdir())
    for name in ("report.json", "report.html"):
        (folder / "cut" / name).unlink()
    (folder / "cut/before.safetensors").touch()
    (folder / "cut/mine.safetensors").touch()
    assert "holds a run already" in compressed("quantize", folder, *options).stderr
    (folder / "cut/mine.safetensors").unlink()
    other = compressed("quantize", folder, "--bits", 8, *options[2:])
    assert "bits: '4' there, '8' now" in other.stderr
    with monkeypatch.context() as patched:
        patched.setattr("isthmus.evidence.page.write_text", full)
        done = compressed("quantize", folder, *options)
    assert done.returncode == 2 and "could not be written" in done.stderr
    assert not list((folder / "cut").iterdir())
    assert compressed("quantize", folder, *options).returncode == 0
    assert sorted(each.name for each in (folder / "cut").iterdir()) == whole


@pytest.fixture(scope="module")
def packed(folder):
    """Files whose weights are packed: without channels, and on a grid."""
    channels = ("--density", 0.5, "--structure", "channels", "--steps", 0, "--out", "fewer")
    rounded = ("--bits", 4, "--method", "post-training", "--out", "levels")
    for command, options in (("prune", channels), ("quantize", rounded)):
        done = compressed(command, folder, *options)
        assert done.returncode == 0, done.stderr
    return {name: f"{name}/compressed.safetensors" for name in ("fewer", "levels")}


def measuring(file):
    """Commands that take a checkpoint and write none."""
    data, few = ("--data", "digits:test#n=100"), ("--data", "digits:test#n=20")
    clean, short = ("--clean", "digits:train#n=200"), ("--attack-steps", 2)
    read = (file, "--model", NET)
    return [
        ("evaluate", *read, *data, "--out", "{}-figures.json"),
        ("attack", *read, *few, *short),
        ("certify", *read, *few, "--eps", 0.01, "--out", "{}-certified"),
        ("detect", "fit", *read, *clean, "--layer", "features.0", "--out", "{}-detector"),
        ("health", *read, *few, *short, "--out", "{}-health"),
    ]


@pytest.mark.parametrize("name", ["fewer", "levels"])
def test_every_command_that_measures_reads_a_packed_file(name, packed, folder):
    for command in measuring(packed[name]):
        done = isthmus(*(word.format(name) for word in map(str, command)), folder=folder)
        assert done.returncode == 0, (command, done.stderr)
    record = json.loads((folder / name / "report.json").read_text())
    figures = json.loads((folder / f"{name}-figures.json").read_text())
    assert figures["accuracy"] == record["after"]["metrics"]["accuracy"]


def test_a_network_without_channels_is_rounded_further(packed, folder):
    done = isthmus(
        *("quantize", packed["fewer"], "--model", NET, "--method", "post-training", "--bits", 8),
        *("--clean", "digits:train#n=100", "--data", "digits:test#n=100", "--out", "both"),
        folder=folder,
    )
    assert done.returncode == 0, done.stderr
    first, then = (
        json.loads((folder / name / "report.json").read_text()) for name in ("fewer", "both")
    )
    assert then["after"]["multiply-adds"] == first["after"]["multiply-adds"]
    assert then["before"]["metrics"]["accuracy"] == first["after"]["metrics"]["accuracy"]
    assert not (folder / "both/network.safetensors").exists()


@pytest.mark.parametrize(
    "command",
    [
        ("connect", "FILE", "FILE", "--clean", "digits:train#n=100"),
        ("repair", "FILE", "--clean", "digits:train#n=100"),
        ("align", "FILE", "FILE", "--clean", "digits:train#n=100"),
        ("train", "--init", "FILE", "--data", "digits:train#n=100"),
    ],
)
def test_a_command_that_would_write_a_network_refuses_a_packed_file(command, packed, folder):
    for name, words in (("fewer", "isthmus evaluate"), ("levels", "levels/network.safetensors")):
        given = [packed[name] if one == "FILE" else one for one in command]
        done = isthmus(*given, "--model", NET, "--out", f"made-of-{name}", folder=folder)
        assert done.returncode == 2 and words in done.stderr, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


CHANNELS = ("--density", 0.5, "--structure", "channels")

NORMED = """
from torch import nn
from isthmus.models import small_cnn

def normed():
    return with_norm(small_cnn(10, channels=1, width=8))

def with_norm(net):
    first = next(part for part in net.modules() if isinstance(part, nn.Conv2d))
    nn.utils.parametrizations.weight_norm(first)
    return net
"""


def test_no_plain_file_is_written_that_the_model_would_not_load(folder, monkeypatch):
    (folder / "networks_normed.py").write_text(NORMED)
    monkeypatch.syspath_prepend(folder)
    plain = load_checkpoint(folder / "net.safetensors", model_factory(NET)())
    net = importlib.import_module("networks_normed").with_norm(plain)
    save_checkpoint(net, folder / "normed.safetensors")
    done = isthmus(
        *("quantize", "normed.safetensors", "--model", "networks_normed:normed", "--bits", 8),
        *("--method", "post-training"),
        *("--clean", "digits:train#n=200", "--data", "digits:test#n=100", "--out", "normed"),
        folder=folder,
    )
    assert done.returncode == 0, done.stderr
    assert not (folder / "normed/network.safetensors").exists()
    small = Compressed.load(folder / "normed/compressed.safetensors", net)
    x = load_data("digits:test#n=20").floats()
    expected = quantize(net, load_data("digits:train#n=200"), 8).model(x)
    torch.testing.assert_close(small.model(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("relaxed", ("--bits", "ternary", "--steps", 30)),
        ("traded", ("--bits", "ternary", "--steps", 30, *TRADED)),
        ("rounded", ("--bits", "8", "--method", "post-training")),
    ],
)
def test_quantizing(name, options, folder):
    done = compressed("quantize", folder, *options, "--out", name)
    assert done.returncode == 0, done.stderr
    record, _ = checked(folder, name)
    assert str(record["compressed"]["bits"]) == options[1]
    assert record["compressed"]["choice"] == ("all" if name == "rounded" else "inner")
    trained = record["compressed"]["training"]
    assert trained is None if name == "rounded" else "steps=30" in trained
    zeros = record["after"]["metrics"]["zero weights"]
    layers = record["compressed"]["layers"].values()
    rounded = sum(layer["units"] - layer["kept"] for layer in layers)
    assert zeros["unit"] == "share" and rounded > 0
    assert record["before"]["metrics"]["zero weights"]["value"] < zeros["value"]
    assert record["after"]["metrics"]["zero channels"]["value"] >= 0
    if name == "traded":
        assert "clean=0.25, attacked=0.75" in record["compressed"]["loss"]
    assert record["same answers"]["value"] > (0.95 if name == "rounded" else 0.5)


UNTRAINED = (("--density", 0.5, "--steps", 0), ("--method", "post-training"))


@pytest.mark.parametrize("command, given", [("prune", UNTRAINED[0]), ("quantize", UNTRAINED[1])])
def test_what_measures_has_an_effect_where_nothing_trains(command, given, folder):
    measured = ("--attack", "pgd", "--eps", 0.05, "--attack-steps", 1, "--restarts", 1)
    every = ("--seed", 3, "--device", "cpu", "--out", f"measured-{command}")
    done = compressed(command, folder, *given, *measured, *every)
    assert done.returncode == 0, done.stderr
    first, *others = done.stderr.splitlines()
    assert re.match(r"isthmus: about \d+:\d\d min in all.*; sooner where the attack", first)
    assert any(re.match(r"isthmus: attacking samples: \d+ of 100", line) for line in others)


@pytest.mark.parametrize(
    ("command", "options", "words"),
    [
        ("prune", ("--density", 0), "density = 0"),
        ("prune", ("--density", "nan"), "finite"),
        ("prune", ("--density", 0.5, "--loss", "fast"), "--loss"),
        (
            "prune",
            ("--density", 0.5, "--method", "rewiring", "--steps", 0),
            "--steps 0 for rewiring",
        ),
        ("prune", ("--density", 0.5, "--method", "learned-scores", "--steps", 1), "3 or more"),
        ("prune", ("--density", 1e-9), "(--density)"),
        ("prune", (*CHANNELS, "--method", "rewiring", "--steps", 20), "--method magnitude"),
        ("prune", (*CHANNELS, "--method", "learned-scores", "--steps", 20), "--method magnitude"),
        ("prune", ("--density", 0.5, "--beta", 3), "--beta"),
        ("prune", ("--density", 0.5, "--eps", 0.1), "--attack pgd, or train: --loss"),
        ("prune", ("--density", 0.5, "--norm", "l2"), "measure under an attack: --attack pgd"),
        ("quantize", ("--eps", 0.1), "measure under an attack: --attack pgd"),
        ("quantize", (*UNTRAINED[1], "--eps", 0.1), "measure under an attack: --attack pgd"),
        ("prune", ("--density", 0.5, "--loss", "trade-off", "--beta", 0), "beta = 0"),
        ("quantize", ("--bits", "3"), "3"),
        ("quantize", ("--method", "post-training", "--steps", 5), "--steps 5"),
        ("quantize", ("--steps", 0), "--method post-training"),
        ("quantize", (*UNTRAINED[1], "--loss", "adversarial"), "got --loss;"),
        ("quantize", (*UNTRAINED[1], "--loss", "trades", "--eps", 0.1), "got --eps, --loss;"),
        ("quantize", (*UNTRAINED[1], "--lr", 0.1, "--flip"), "got --lr, --flip;"),
        ("prune", (*UNTRAINED[0], "--loss", "trades"), "got --loss;"),
        ("prune", (*UNTRAINED[0], "--attack", "pgd", "--beta", 2), "got --beta;"),
        ("prune", (*UNTRAINED[0], "--precision", "fp32"), "got --precision;"),
        ("prune", ("--density", 0.5, "--attack", "pgd", "--beta", 2), "got --beta;"),
        ("prune", ("--density", 0.5, "--loss", "trades", "--restarts", 2), "got --restarts;"),
    ],
)
def test_bad_input_is_refused_in_one_line(command, options, words, folder):
    done = compressed(command, folder, *options, "--out", "refused")
    assert done.returncode == 2 and words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (folder / "refused").exists()
