"""`isthmus connect`, `path`, `export` and `plane`: each reads what another wrote."""

import json
import os
import subprocess
import sys

import pytest
import torch
from jsonschema import Draft202012Validator
from safetensors.torch import load_file
from support.command_line import CLEAN, FAST, MODEL, TRIGGER, done, isthmus, refused

from isthmus.evidence.schema import schema

ON_DIGITS = ("--model", MODEL, "--clean", "digits:test")
CONNECT = ("connect", "a.safetensors", "b.safetensors")


@pytest.fixture(scope="module")
def curved(home):
    """The folder, with a trained curve in it, curve.safetensors."""
    files = ("a.safetensors", "b.safetensors", "--out", "curve.safetensors")
    connected = isthmus("connect", *files, *ON_DIGITS, *FAST, folder=home)
    assert connected.returncode == 0, connected.stderr
    return home


@pytest.fixture(scope="module")
def started(curved):
    """The folder, with the network at t = 0 in it, start.safetensors."""
    files = ("curve.safetensors", "--out", "start.safetensors")
    exported = isthmus("export", *files, "--t", 0.0, *ON_DIGITS, folder=curved)
    assert exported.returncode == 0, exported.stderr
    return curved


def test_the_network_at_the_start_is_the_first_one(started):
    first, start = (load_file(started / f"{name}.safetensors") for name in ("a", "start"))
    assert first.keys() == start.keys() and all(torch.equal(v, start[k]) for k, v in first.items())


def test_the_first_point_of_a_path_measures_what_evaluate_does(started):
    files = ("curve.safetensors", "--out", "path.json")
    along = isthmus("path", *files, *ON_DIGITS, *TRIGGER, "--points", 5, folder=started)
    assert along.returncode == 0, along.stderr
    path = json.loads((started / "path.json").read_text())
    success = path["values"]["attack success"][0]
    assert path["t"] == [0, 0.25, 0.5, 0.75, 1] and success["value"] > 0.9
    files = ("start.safetensors", "--model", MODEL, "--data", "digits:test", "--out", "there.json")
    evaluated = isthmus("evaluate", *files, *TRIGGER, folder=started)
    assert evaluated.returncode == 0 and "attack success" in evaluated.stdout
    assert json.loads((started / "there.json").read_text())["attack success"] == success


@pytest.mark.parametrize(
    "options",
    [
        ("--steps", 5),
        ("--lr", 0.2),
        ("--flip",),
        ("--rho", 1),
        ("--low", 0.2, "--compile"),
        ("--loss", "adversarial", "--eps", 0.1),
    ],
)
def test_options_of_a_training_are_refused_where_nothing_is_trained(options, home):
    straight = (*CONNECT, *ON_DIGITS, "--bends", 0, "--out", "untrained.safetensors")
    said = refused(home, *straight, *options)
    assert all(option in said for option in options if str(option).startswith("--"))
    assert "--bends 0" in said and not (home / "untrained.safetensors").exists()


def test_robust_accuracy_along_a_robust_path(home):
    for loss in ("cross-entropy", "adversarial"):
        eps = () if loss == "cross-entropy" else ("--eps", 0.1, "--attack-steps", 2)
        loud = ("--steps", 60, "--lr", 0.3, "--loss", loss, *eps)
        done(home, *CONNECT, *ON_DIGITS, *loud, "--out", f"{loss}.safetensors")
        path = ("path", f"{loss}.safetensors", *ON_DIGITS[:2], "--clean", "digits:test#n=100")
        attack = ("--points", 3, "--attack", "fgsm", "--eps", 0.1)
        assert "robust accuracy" in done(home, *path, *attack, "--out", f"{loss}.json")
    plain, robust = (
        json.loads((home / f"{loss}.json").read_text())["values"]
        for loss in ("cross-entropy", "adversarial")
    )
    assert robust["robust accuracy"][1]["value"] > plain["robust accuracy"][1]["value"]


def test_the_landscape_is_measured_drawn_and_told(home):
    around = ("--landscape", "--eps", 0.1, "--attack-steps", 2, "--landscape-samples", 40)
    done(home, *CONNECT, *ON_DIGITS, *FAST, "--out", "around.safetensors")
    along = ("path", "around.safetensors", *CLEAN, "--points", 5)
    told = done(home, *along, *around, "--out", "around.json")
    assert "Pearson" in told and "one hump" in told
    part = json.loads((home / "around.json").read_text())["landscape"]
    assert part["values"]["lambda_max"][2]["n"] == 40 and len(part["correlations"]) == 5
    assert "--landscape" in refused(home, *along, "--landscape-samples", 9, "--out", "no.json")
    shape = ("--bends", 1, "--points", 4, *around, "--out", "landscape")
    told = done(home, "repair", "a.safetensors", "b.safetensors", *CLEAN, *FAST, *shape)
    assert "Robustness loss against" in told
    page = (home / "landscape/report.html").read_text()
    assert "Robustness along the path" in page and page.count("<svg class") == 6
    Draft202012Validator(schema()).validate(
        json.loads((home / "landscape/report.json").read_text())
    )


def test_a_plane_is_measured_and_drawn(home):
    third = ("--data", "bad.npz", "--steps", 10, "--seed", 9, "--out", "third.safetensors")
    done(home, "train", "--model", MODEL, *third)
    plane = ("plane", "a.safetensors", "b.safetensors", "third.safetensors", "--points", 3)
    on_digits = ("--model", MODEL, "--clean", "digits:test#n=100")
    done(home, *plane, *on_digits, "--out", "plane.json")
    record = json.loads((home / "plane.json").read_text())
    assert len(record["values"]["bonafide loss"][0]) == 3 and len(record["corners"]) == 3
    drawn = (home / "plane-bonafide-loss.svg").read_text()
    assert drawn.startswith("<svg xmlns=") and "third" in drawn


def test_a_curve_is_not_judged_on_the_samples_that_set_its_statistics(straight):
    same = ("--clean", "digits:test#n=200", "--data", "digits:test#n=200")
    error = refused(
        straight, "path", "straight.safetensors", "--model", MODEL, *same, "--out", "same.json"
    )
    assert "SET#skip" in error


def test_two_processes_work_as_one(home):
    """Under `torchrun` two ranks train one curve, share out the points of a path, and write each
    file once.
    """
    connect = [
        "connect",
        "a.safetensors",
        "b.safetensors",
        *map(str, FAST),
        "--out",
        "ranks.safetensors",
    ]
    path = ["path", "ranks.safetensors", "--points", "3", "--out", "ranks.json"]
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "isthmus",
    ]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }  # another number, other last bits
    for arguments in (connect, path):
        command = [*launch, *arguments, "--model", MODEL, "--clean", "digits:test"]
        found = subprocess.run(
            command, cwd=home, capture_output=True, text=True, env=environment, timeout=300
        )
        assert found.returncode == 0, found.stderr
    assert found.stdout.count("0.5") == 1
    path[1], path[-1] = "ranks.safetensors", "alone.json"
    assert isthmus(*path, "--model", MODEL, "--clean", "digits:test", folder=home).returncode == 0
    together, alone = (
        json.loads((home / name).read_text()) for name in ("ranks.json", "alone.json")
    )
    assert together["values"] == alone["values"]
