"""`isthmus repair`: from one checkpoint and from two, resumed, and what it refuses."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from support.command_line import CLEAN, FAST, MODEL, TRIGGER, done, isthmus, refused

REPAIR = ("repair", "a.safetensors", *CLEAN)


def report_of(folder):
    """The record of a repair that was written into a folder."""
    return json.loads((folder / "report.json").read_text())


def test_repair_of_two_checkpoints_leaves_network_and_report(home):
    two = ("repair", "a.safetensors", "b.safetensors", *CLEAN, "--data", "digits:test#skip=200")
    done(home, *two, *TRIGGER, *FAST, "--points", 3, "--compare", "--out", "two")
    written = {"repaired.safetensors", "README.md", "report.json", "report.html", "run.json"}
    assert written <= set(os.listdir(home / "two"))
    record = report_of(home / "two")
    assert len(record["baselines"]) == 7
    assert record["provenance"]["data"].keys() == {"clean", "evaluation"}
    repaired = load_file(home / "two/repaired.safetensors")
    assert repaired.keys() == load_file(home / "a.safetensors").keys()


def test_a_given_t_is_taken_as_it_is(home):
    done(home, *REPAIR, *FAST, "--points", 3, "--t", 0.07, "--out", "given")
    assert report_of(home / "given")["choice"]["t"] == 0.07


@pytest.mark.parametrize(
    "second, says",
    [
        (None, "unlearned copy"),
        ("unlearned", "unlearned copy"),
        ("permuted", "PermutedCopy"),
        ("fine-tuned", "FineTune"),
        ("perturbed", "Perturbed"),
        ("averaged", "averaged repairs"),
    ],
)
def test_one_checkpoint_is_enough(second, says, home):
    chosen = ("--second", second) if second else ()
    done(home, *REPAIR, *FAST, *chosen, "--points", 3, "--out", f"alone-{second}")
    record = report_of(home / f"alone-{second}")
    kind = record["provenance"]["other"]["kind"]
    assert says in kind and str(home) not in kind
    taken = {"unlearned": 0.9, "averaged": 1.0}
    if second is None:  # one of several ways, see the tests of the decision
        assert record["choice"]["t"] in record["path"]["t"][1:-1]
    else:
        assert record["choice"]["t"] == taken.get(second, 0.25)


def files_of(folder):
    """What is in a folder, but for the claim to it, and when it was written."""
    files = {file for file in folder.rglob("*") if file.is_file() and file.name != "run.json"}
    return {file: file.stat().st_mtime_ns for file in files}


def test_a_folder_is_never_overwritten_and_a_finished_repair_is_shown_again(home):
    repair = (*REPAIR, *FAST, "--points", 3, "--out", "one")
    said = done(home, *repair)
    written = files_of(home / "one")
    assert "--resume" in refused(home, *repair)
    assert "bends" in refused(home, *repair, "--bends", 2, "--resume")
    shown = done(home, *repair, "--resume")
    assert "is finished" in shown and files_of(home / "one") == written
    assert said.splitlines()[-3:-1] == shown.splitlines()[-3:-1]  # last, the command as typed


def test_a_repair_that_lacks_a_file_or_a_part_of_one_is_resumed(home):
    repair = (*REPAIR, *FAST, "--points", 3, "--out", "lacking")
    done(home, *repair)
    whole = {file: file.read_bytes() for file in (home / "lacking").iterdir() if file.is_file()}
    first = load_file(home / "lacking/repaired.safetensors")
    for name, left in (
        ("README.md", None),
        ("report.html", 0),
        ("report.json", 300),
        ("repaired.safetensors", 300),
    ):
        file = home / "lacking" / name
        if left is None:
            file.unlink()
        else:
            file.write_bytes(whole[file][:left])
        assert "is finished" not in done(home, *repair, "--resume"), name
        assert file.stat().st_size > 300
    again = load_file(home / "lacking/repaired.safetensors")
    assert all(torch.equal(value, again[key]) for key, value in first.items())


def test_control_c_loses_nothing(home):
    arguments = (*REPAIR, "--steps", "1200", "--points", "3", "--out")
    command = [sys.executable, "-m", "isthmus", *arguments, "stopped"]
    # another number of threads, other last bits
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    # a shell's background jobs, and theirs, ignore it
    heeds = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        command, cwd=home, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=heeds
    ) as running:
        while not list((home / "stopped").glob("*.state")) and running.poll() is None:
            time.sleep(0.05)
        # Python loses an interrupt that arrives while an object is being finalized
        for _ in range(10):
            running.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                _, error = running.communicate(timeout=2)
                break
    assert running.returncode == 130 and "--resume" in error and "Traceback" not in error
    assert (home / "stopped/run.json").exists() and list((home / "stopped").glob("*.state"))
    done(home, *arguments, "stopped", "--resume")
    done(home, *arguments, "through")
    one, two = (load_file(home / name / "repaired.safetensors") for name in ("stopped", "through"))
    assert all(torch.equal(v, two[k]) for k, v in one.items())


@pytest.mark.parametrize(
    "checkpoint, says",
    [
        ("code.pt", "code"),
        ("cut.safetensors", "cut.safetensors"),
        ("missing.safetensors", "{name}"),
        ("extra.safetensors", "extra.weight"),
        ("shape.safetensors", "{name}"),
        ("nan.safetensors", "{name}"),
        ("chance.safetensors", "chance"),
        ("nowhere.safetensors", "nowhere.safetensors"),
    ],
)
def test_a_bad_checkpoint_is_refused_in_one_line(checkpoint, says, spoiled):
    folder, name = spoiled
    error = refused(
        folder, "repair", checkpoint, "--model", MODEL, "--clean", "digits:test", "--out", "refused"
    )
    assert says.format(name=name) in error
    assert not (folder / "executed").exists() and not (folder / "refused/report.json").exists()


@pytest.mark.parametrize(
    "data, says",
    [
        ("empty.npz", "no images"),
        ("few.npz", "5 bonafide samples for 10 classes"),
        ("label.npz", "labels from 7 to 16"),
        ("half.npz", "whole numbers"),
        ("range.npz", "[0, 1]"),
        ("flat.npz", "shape"),
        ("color.npz", "shape"),
        ("nowhere.npz", "nowhere.npz"),
        ("digit", "digits"),
    ],
)
def test_bad_data_are_refused_in_one_line(data, says, spoiled):
    error = refused(
        spoiled[0], "repair", "a.safetensors", "--model", MODEL, "--clean", data, "--out", "refused"
    )
    assert says in error


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("--bends", -1), "bends = -1"),
        (("--t", 1.5), "t = 1.5"),
        (("--steps", 0), "steps = 0"),
        (("--lr", -1), "lr"),
        (("--points", 1), "points"),
        (("--queries", -1), "--queries -1"),
        (("--queries", 5), "--queries without --trigger"),
        (("--trigger", "star", "--target", 1), "star"),
        (("--trigger", "patch"), "both"),
        (("--target", "x", "--trigger", "patch"), "'x'"),
        (("--holdout", 1.0), "holdout"),
        (("--device", "abacus"), "abacus"),
        (("--target", 99, "--trigger", "patch"), "99"),
        (("--t", 0.5, "--tolerance", 0.1), "both"),
        (("--tolerance", 0.0), "tolerance"),
        (("--weight-decay", -1), "weight_decay"),
        (("--pad", -1), "pad = -1"),
        (("--pad", 8), "8x8"),
        (("--trigger", "", "--target", 1), "''"),
        (("--steps", 2, "--second", "averaged"), "steps = 2 for the mean"),
        (("--second", "averaged", "--rho", 1), "--rho"),
        (("--second", "unlearned", "--bends", 1), "--bends"),
        (("--second", "averaged", "--kind", "polychain"), "--kind"),
        (("--second", "averaged", "--loss", "adversarial", "--eps", 0.1), "--loss"),
        (("--device", "meta"), "meta"),
        (("--bends", 0, "--loss", "adversarial", "--eps", 0.1), "straight path"),
    ],
)
def test_bad_settings_are_refused_in_one_line(arguments, says, spoiled):
    steps = () if "--steps" in arguments else ("--steps", 3)
    assert says in refused(spoiled[0], *REPAIR, "--out", "refused", *arguments, *steps)


@pytest.mark.parametrize("second", ["a.safetensors", "a_in_torch.pt"])
def test_the_same_network_twice_is_no_second_one(second, home):
    torch.save(load_file(home / "a.safetensors"), home / "a_in_torch.pt")
    twice = ("repair", "a.safetensors", second, *CLEAN)
    assert "a.safetensors again" in refused(home, *twice, "--out", "refused")


@pytest.mark.parametrize(
    "model, says",
    [
        ("isthmus.models:smal_cnn", "small_cnn"),
        ("isthmus.modles:small_cnn", "isthmus.modles"),
        ("nonsense", "nonsense"),
    ],
)
def test_an_unknown_model_is_refused_in_one_line(model, says, spoiled):
    repair = ("repair", "a.safetensors", "--model", model, "--clean", "digits:test")
    assert says in refused(spoiled[0], *repair, "--out", "refused")


def test_endpoints_of_different_architectures_are_refused(spoiled):
    folder, _ = spoiled
    wide = ("--model", MODEL.replace("8", "16"), "--out", "wide.safetensors")
    done(folder, "train", "--data", "digits:train", "--steps", 1, *wide)
    two = ("repair", "a.safetensors", "wide.safetensors", *CLEAN)
    error = refused(folder, *two, "--out", "refused")
    assert "wide.safetensors" in error and "shape" in error


def test_nothing_called_repaired_is_written_where_the_curve_does_not_train(home):
    """At a rate that moves nothing: half way to a permuted copy, the network guesses."""
    still = ("--lr", 1e-9, "--steps", 60, "--low", 0.5, "--high", 0.5, "--points", 3)
    moved = (*REPAIR, "--second", "permuted", *still, "--out", "untrained")
    found = isthmus(*moved, folder=home)
    *before, last = found.stderr.splitlines()
    assert found.returncode == 2 and sum("once more" in line for line in before) == 2, found.stderr
    assert last.startswith("isthmus: got a curve that did not train: after 3 trainings")
    assert not (home / "untrained/repaired.safetensors").exists()
    assert not (home / "untrained/report.json").exists()
