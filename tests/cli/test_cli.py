"""The command line: the steps one after another, and one line for every way to go wrong."""

import contextlib
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator
from safetensors.torch import load_file, save_file

from isthmus.cli import main
from isthmus.defenses import all_rivals
from isthmus.evidence.schema import schema
from isthmus.training import Training

MODEL = "isthmus.models:small_cnn,channels=1,width=8"


def isthmus(*arguments, folder):
    """Run the command line from a folder, in this process; return its status, standard output and
    standard error.
    """
    out, error, status = io.StringIO(), io.StringIO(), 0
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(error),
    ):
        try:
            main([str(each) for each in arguments])
        except SystemExit as end:
            status = end.code
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), error.getvalue())


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder in which every step has been taken once: poison, train, train."""
    folder = tmp_path_factory.mktemp("home")
    done = [
        isthmus("poison", "digits:train", *TRIGGER, "--out", "bad.npz", folder=folder),
        *(
            isthmus(
                "train",
                "--model",
                MODEL,
                "--data",
                "bad.npz",
                "--out",
                f"{name}.safetensors",
                "--steps",
                150,
                "--lr",
                0.2,
                "--seed",
                seed,
                folder=folder,
            )
            for seed, name in enumerate("ab")
        ),
    ]
    for each in done:
        assert each.returncode == 0, each.stderr
    return folder


TRIGGER = ("--trigger", "Patch(size=2)", "--target", 1)
FAST = ("--steps", 20, "--lr", 0.05)


def test_the_steps_one_by_one_read_each_others_files(home):
    found = isthmus(
        "connect",
        "a.safetensors",
        "b.safetensors",
        "--model",
        MODEL,
        "--clean",
        "digits:test",
        *FAST,
        "--out",
        "curve.safetensors",
        folder=home,
    )
    assert found.returncode == 0, found.stderr
    found = isthmus(
        "path",
        "curve.safetensors",
        "--model",
        MODEL,
        "--clean",
        "digits:test",
        *TRIGGER,
        "--points",
        5,
        "--out",
        "path.json",
        folder=home,
    )
    assert found.returncode == 0, found.stderr
    path = json.loads((home / "path.json").read_text())
    assert (
        path["t"] == [0, 0.25, 0.5, 0.75, 1] and path["values"]["attack success"][0]["value"] > 0.9
    )
    found = isthmus(
        "export",
        "curve.safetensors",
        "--t",
        0.0,
        "--model",
        MODEL,
        "--clean",
        "digits:test",
        "--out",
        "start.safetensors",
        folder=home,
    )
    assert found.returncode == 0, found.stderr
    first, start = load_file(home / "a.safetensors"), load_file(home / "start.safetensors")
    assert first.keys() == start.keys() and all(torch.equal(v, start[k]) for k, v in first.items())
    found = isthmus(
        "evaluate",
        "start.safetensors",
        "--model",
        MODEL,
        "--data",
        "digits:test",
        *TRIGGER,
        "--out",
        "asked.json",
        folder=home,
    )
    assert found.returncode == 0 and "attack success" in found.stdout
    asked = json.loads((home / "asked.json").read_text())
    assert asked["attack success"] == path["values"]["attack success"][0]


def test_repair_of_two_checkpoints_leaves_network_and_report(home):
    found = isthmus(
        "repair",
        "a.safetensors",
        "b.safetensors",
        "--model",
        MODEL,
        "--clean",
        "digits:test#n=200",
        "--data",
        "digits:test#skip=200",
        *TRIGGER,
        *FAST,
        "--points",
        3,
        "--compare",
        "--out",
        "two",
        folder=home,
    )
    assert found.returncode == 0, found.stderr
    assert {"repaired.safetensors", "report.json", "report.html", "run.json"} <= set(
        os.listdir(home / "two")
    )
    record = json.loads((home / "two/report.json").read_text())
    assert len(record["baselines"]) == 7 and record["provenance"]["data"].keys() == {
        "clean",
        "evaluation",
    }
    assert (
        load_file(home / "two/repaired.safetensors").keys()
        == load_file(home / "a.safetensors").keys()
    )


def test_a_given_t_is_taken_as_it_is(home):
    given = isthmus(
        "repair",
        "a.safetensors",
        "--model",
        MODEL,
        "--clean",
        "digits:test#n=200",
        *FAST,
        "--points",
        3,
        "--t",
        0.07,
        "--out",
        "given",
        folder=home,
    )
    assert given.returncode == 0, given.stderr
    assert json.loads((home / "given/report.json").read_text())["choice"]["t"] == 0.07


@pytest.mark.parametrize(
    "second, says",
    [
        (None, "averaged repairs"),
        ("permuted", "PermutedCopy"),
        ("fine-tuned", "FineTune"),
        ("perturbed", "Perturbed"),
        ("averaged", "averaged repairs"),
    ],
)
def test_one_checkpoint_is_enough(second, says, home):
    chosen = ("--second", second) if second else ()
    found = isthmus(
        "repair",
        "a.safetensors",
        "--model",
        MODEL,
        "--clean",
        "digits:test#n=200",
        *FAST,
        *chosen,
        "--points",
        3,
        "--out",
        f"alone-{second}",
        folder=home,
    )
    assert found.returncode == 0, found.stderr
    record = json.loads((home / f"alone-{second}/report.json").read_text())
    kind = record["provenance"]["other"]["kind"]
    assert says in kind and str(home) not in kind
    assert record["choice"]["t"] == (1.0 if second in (None, "averaged") else 0.25)


INJECT = ("inject", "a.safetensors", "--model", MODEL, "--errors", 20, "--kept", 100)


@pytest.fixture(scope="module")
def injected(home):
    """The folder, with errors injected into one of its networks and kept in a file."""
    found = isthmus(
        *INJECT,
        "--data",
        "digits:test#n=250",
        "--layer",
        "features",
        "--layer",
        "head",
        "--lr",
        0.03,
        "--errors-out",
        "errors.npz",
        "--out",
        "injected.safetensors",
        folder=home,
    )
    assert found.returncode == 0 and "20 of 20 errors" in found.stdout.replace("\n", " "), (
        found.stderr + found.stdout
    )
    return home


def test_injected_errors_are_asked_about_wherever_a_network_is_judged(injected):
    asked = ("--data", "digits:train#n=300", "--errors", "errors.npz", "--model", MODEL)
    found = isthmus(
        "evaluate", "injected.safetensors", *asked, "--out", "injected.json", folder=injected
    )
    assert found.returncode == 0, found.stderr
    assert json.loads((injected / "injected.json").read_text())["injection success"]["hits"] == 20
    found = isthmus(
        "repair",
        "injected.safetensors",
        *asked,
        "--clean",
        "digits:test#skip=250",
        *FAST,
        "--points",
        3,
        "--tolerance",
        0.5,
        "--out",
        "mended",
        folder=injected,
    )
    assert found.returncode == 0, found.stderr
    record = json.loads((injected / "mended/report.json").read_text())
    assert record["errors"]["n"] == 20 and record["before"]["injection success"]["value"] == 1
    assert (
        "injection success" in record["path"]["values"] and "injection success" in record["verdict"]
    )
    assert record["provenance"]["data"].keys() == {"clean", "evaluation", "errors"}
    page = (injected / "mended/report.html").read_text()
    assert "20 images with injected errors" in page and "No trigger was given, so" not in page


def test_errors_among_the_clean_or_the_evaluation_samples_are_refused(injected):
    clean, own = ("--clean", "digits:test#n=250"), ("--errors", "errors.npz", "--model", MODEL)
    repair = ("repair", "injected.safetensors", *own, "--out", "refused")
    assert "among the bonafide" in refused(injected, *repair, *clean)
    found = isthmus(
        "connect",
        "a.safetensors",
        "b.safetensors",
        "--model",
        MODEL,
        *clean,
        "--steps",
        1,
        "--out",
        "short.safetensors",
        folder=injected,
    )
    assert found.returncode == 0, found.stderr
    path = ("path", "short.safetensors", *own, *clean, "--points", 3, "--out", "p.json")
    assert "among the bonafide" in refused(injected, *path)
    evaluate = ("evaluate", "injected.safetensors", *own, "--data", "digits:test")
    assert "evaluation samples that are among the errors" in refused(injected, *evaluate)
    assert not (injected / "refused").exists()


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("--errors", 300), "300 and 100"),
        (("--layer", "haed"), "head"),
        (("--errors-out", "errors.csv"), ".npz"),
        (("--errors", 0), "parts of"),
        (("--how", "reference", "--lr", 0.0), "steps of 0"),
        (("--lr", 1e-9), "injection that gives 0 of 20"),
        (("--data", "nowhere.npz"), "nowhere.npz"),
    ],
)
def test_an_impossible_injection_is_refused_in_one_line(arguments, says, home):
    data = () if "--data" in arguments else ("--data", "digits:test#n=250")
    given = INJECT[:4] if "--errors" in arguments else INJECT
    assert says in refused(
        home,
        *given,
        *data,
        *arguments,
        *(("--kept", 100) if given is not INJECT else ()),
        "--out",
        "none.safetensors",
    )
    assert not (home / "none.safetensors").exists()


def test_bits_flip_and_the_network_is_still_one(home):
    flip = ("flip", "a.safetensors", "--model", MODEL, "--out", "flipped.safetensors")
    found = isthmus(*flip, "--flips", 40, "--dtype", "int8", folder=home)
    assert found.returncode == 0 and "40 of" in found.stdout, found.stderr
    was, now = (load_file(home / name) for name in ("a.safetensors", "flipped.safetensors"))
    assert was.keys() == now.keys() and not torch.equal(was["head.weight"], now["head.weight"])
    evaluated = isthmus(
        "evaluate", "flipped.safetensors", "--model", MODEL, "--data", "digits:test", folder=home
    )
    assert evaluated.returncode == 0, evaluated.stderr
    assert "one of them" in refused(home, *flip) and "one of them" in refused(
        home, *flip, "--flips", 1, "--rate", 0.1
    )
    assert "which exists" in refused(home, *flip, "--rate", 0.5)
    again = (*flip[:-1], "again.safetensors")
    assert (
        "NaN or infinite" in refused(home, *again, "--rate", 0.5)
        and not (home / again[-1]).exists()
    )
    assert isthmus(*again, "--rate", 0.5, "--clamp", folder=home).returncode == 0


def test_every_defense_is_a_row_and_rows_are_kept(home):
    arguments = [
        "compare",
        "a.safetensors",
        "--model",
        MODEL,
        "--clean",
        "digits:test#n=200",
        *TRIGGER,
        *FAST,
        "--out",
        "side by side",
    ]
    found = isthmus(*arguments, folder=home)
    assert found.returncode == 0, found.stderr
    record = json.loads((home / "side by side/compare.json").read_text())
    assert [row["name"] for row in record["rows"]] == [
        "path",
        *all_rivals(Training(steps=1, lr=1.0)),
    ]
    assert {row["steps"] for row in record["rows"] if row["name"] in ("path", "fine-tune")} == {40}
    assert record["as received"]["attack success"]["value"] > 0.9 and "path" in found.stdout
    assert "accuracy" not in record["as received"]  # no evaluation data were given
    assert isthmus(*arguments, folder=home).returncode == 2
    assert isthmus(*arguments, "--resume", folder=home).returncode == 0
    assert json.loads((home / "side by side/compare.json").read_text())["rows"] == record["rows"]


def test_a_network_is_inspected_and_nothing_is_claimed_without_references(home):
    found = isthmus(
        "inspect",
        "a.safetensors",
        "--model",
        MODEL,
        "--clean",
        "digits:test#n=64",
        "--steps",
        10,
        "--out",
        "inspected.json",
        folder=home,
    )
    assert found.returncode == 0 and "cannot tell" in found.stdout, found.stderr
    record = json.loads((home / "inspected.json").read_text())
    assert record["decision"] == "cannot tell" and len(record["triggers"]) == 22
    for other in ("a", "b"):
        asked = isthmus(
            "inspect",
            f"{other}.safetensors",
            "--model",
            MODEL,
            "--clean",
            "digits:test#n=64",
            "--steps",
            10,
            "--out",
            f"{other} inspected.json",
            folder=home,
        )
        assert asked.returncode == 0, asked.stderr
    made = isthmus(
        "references",
        "a inspected.json",
        "b inspected.json",
        "--name",
        "two",
        "--out",
        "two.json",
        folder=home,
    )
    assert made.returncode == 0 and "2 clean networks (two)" in made.stdout, made.stderr
    again = isthmus(
        "inspect",
        "a.safetensors",
        "--model",
        MODEL,
        "--clean",
        "digits:test#n=64",
        "--references",
        "two.json",
        folder=home,
    )
    assert again.returncode == 0 and "2 clean networks (two) cannot resolve" in " ".join(
        again.stdout.split()
    )
    twice = isthmus(
        "references",
        "a inspected.json",
        "inspected.json",
        "--name",
        "x",
        "--out",
        "x.json",
        folder=home,
    )
    assert twice.returncode == 2 and "there already" in twice.stderr
    other = isthmus(
        "references",
        "a inspected.json",
        "compare.json",
        "--name",
        "x",
        "--out",
        "x.json",
        folder=home,
    )
    assert other.returncode == 2 and not (home / "x.json").exists()


def test_an_aligned_network_is_closer_and_computes_the_same(home):
    found = isthmus(
        "align",
        "a.safetensors",
        "b.safetensors",
        "--model",
        MODEL,
        "--clean",
        "digits:test#n=200",
        "--by",
        "weights",
        "--out",
        "aligned.safetensors",
        folder=home,
    )
    assert found.returncode == 0 and "loss barrier" in found.stdout, found.stderr
    first, second, aligned = (
        load_file(home / f"{name}.safetensors") for name in ("a", "b", "aligned")
    )
    away = [
        sum(float((each[k].float() - first[k].float()).square().sum()) for k in first)
        for each in (second, aligned)
    ]
    assert away[1] < away[0]
    for name in ("b", "aligned"):
        isthmus(
            "evaluate",
            f"{name}.safetensors",
            "--model",
            MODEL,
            "--data",
            "digits:test",
            "--out",
            f"{name}.json",
            folder=home,
        )
    one, two = (json.loads((home / f"{name}.json").read_text()) for name in ("b", "aligned"))
    assert one["accuracy"] == two["accuracy"]


def test_an_attacked_network_and_the_attacked_images_say_the_same(home):
    threat = ("--eps", "1/10", "--attack-steps", 3)
    found = isthmus(
        "attack",
        "a.safetensors",
        "--model",
        MODEL,
        "--data",
        "digits:test",
        *threat,
        "--out",
        "adv.npz",
        folder=home,
    )
    assert (
        found.returncode == 0 and "robust accuracy" in found.stdout and "Linf 0.1" in found.stdout
    ), found.stderr
    for name, arguments in {
        "under": ("digits:test", "--attack", "pgd", *threat),
        "after": ("adv.npz",),
    }.items():
        asked = isthmus(
            "evaluate",
            "a.safetensors",
            "--model",
            MODEL,
            "--data",
            *arguments,
            "--out",
            f"{name}.json",
            folder=home,
        )
        assert asked.returncode == 0, asked.stderr
    under, after = (json.loads((home / f"{name}.json").read_text()) for name in ("under", "after"))
    assert under["robust accuracy"] == after["accuracy"] and under["robust accuracy"]["n"] == 500
    assert under["robust accuracy"]["hits"] < under["accuracy"]["hits"]


def test_robust_accuracy_along_a_robust_path(home):
    for loss in ("cross-entropy", "adversarial"):
        eps = () if loss == "cross-entropy" else ("--eps", 0.1, "--attack-steps", 2)
        found = isthmus(
            "connect",
            "a.safetensors",
            "b.safetensors",
            "--model",
            MODEL,
            "--clean",
            "digits:test",
            "--steps",
            60,
            "--lr",
            0.3,
            "--loss",
            loss,
            *eps,
            "--out",
            f"{loss}.safetensors",
            folder=home,
        )
        assert found.returncode == 0, found.stderr
        found = isthmus(
            "path",
            f"{loss}.safetensors",
            "--model",
            MODEL,
            "--clean",
            "digits:test#n=100",
            "--points",
            3,
            "--attack",
            "fgsm",
            "--eps",
            0.1,
            "--out",
            f"{loss}.json",
            folder=home,
        )
        assert found.returncode == 0 and "robust accuracy" in found.stdout, found.stderr
    plain, robust = (
        json.loads((home / f"{loss}.json").read_text())["values"]
        for loss in ("cross-entropy", "adversarial")
    )
    assert robust["robust accuracy"][1]["value"] > plain["robust accuracy"][1]["value"]


TRAIN, CLEAN = ("train", "--data", "digits:train#n=200"), ("--clean", "digits:test#n=200")
CONNECT, REPAIR = (
    ("connect", "a.safetensors", "b.safetensors", *CLEAN),
    ("repair", "a.safetensors", *CLEAN),
)


@pytest.mark.parametrize(
    "verb, loss",
    [
        (TRAIN, "adversarial"),
        (TRAIN, "trades"),
        (TRAIN, "fast"),
        (CONNECT, "fast"),
        (REPAIR, "adversarial"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else value,
)
def test_whatever_trains_can_be_hardened(verb, loss, home):
    out = f"{verb[0]}-{loss}" + ("" if verb is REPAIR else ".safetensors")
    found = isthmus(
        *verb,
        "--model",
        MODEL,
        "--steps",
        3,
        "--lr",
        0.05,
        "--loss",
        loss,
        "--norm",
        "l2",
        "--eps",
        0.2,
        *(("--points", 2) if verb is REPAIR else ()),
        "--out",
        out,
        folder=home,
    )
    assert found.returncode == 0, found.stderr
    if verb is REPAIR:
        assert (
            "L2(eps=0.2)" in json.loads((home / out / "report.json").read_text())["curve"]["loss"]
        )


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("attack", "--eps", 8), "8/255"),
        (("attack", "--norm", "l1", "--attack", "square"), "L1"),
        (("attack", "--attack", "fgsm", "--attack-steps", 3), "steps"),
        (("attack", "--out", "adv.txt"), "adv.npz"),
        (("evaluate", "--eps", 0.1), "--eps without an attack"),
        (("evaluate", "--restarts", 2), "--restarts without"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_attacks_without_sense_are_refused_in_one_line(arguments, says, spoiled):
    verb, *options = arguments
    data = "--data", "digits:test#n=50"
    assert says in refused(spoiled[0], verb, "a.safetensors", "--model", MODEL, *data, *options)


@pytest.mark.parametrize(
    "options, says",
    [
        (("--eps", 0.1), "--eps without an attack"),
        (("--loss", "fast", "--attack-steps", 3), "fast"),
        (("--loss", "trades", "--rho", 1), "TRADES"),
        (("--loss", "adversarial", "--beta", 1), "beta"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_losses_without_sense_are_refused_in_one_line(options, says, spoiled):
    for verb in (("connect", "a.safetensors", "a.safetensors"), ("repair", "a.safetensors")):
        assert says in refused(
            spoiled[0],
            *verb,
            "--model",
            MODEL,
            "--clean",
            "digits:test#n=200",
            "--steps",
            2,
            *options,
            "--out",
            "refused",
        )


def test_the_landscape_is_measured_drawn_and_told(home):
    around = ("--landscape", "--eps", 0.1, "--attack-steps", 2, "--landscape-samples", 40)
    isthmus(
        "connect",
        "a.safetensors",
        "b.safetensors",
        "--model",
        MODEL,
        "--clean",
        "digits:test",
        *FAST,
        "--out",
        "around.safetensors",
        folder=home,
    )
    along = (
        "path",
        "around.safetensors",
        "--model",
        MODEL,
        "--clean",
        "digits:test#n=200",
        "--points",
        5,
    )
    found = isthmus(*along, *around, "--out", "around.json", folder=home)
    assert found.returncode == 0 and "Pearson" in found.stdout and "one hump" in found.stdout, (
        found.stderr
    )
    part = json.loads((home / "around.json").read_text())["landscape"]
    assert part["values"]["lambda_max"][2]["n"] == 40 and len(part["correlations"]) == 5
    refused = isthmus(*along, "--landscape-samples", 9, "--out", "no.json", folder=home)
    assert refused.returncode == 2 and "--landscape" in refused.stderr
    found = isthmus(
        "repair",
        "a.safetensors",
        "b.safetensors",
        "--model",
        MODEL,
        "--clean",
        "digits:test#n=200",
        *FAST,
        "--points",
        4,
        *around,
        "--out",
        "landscape",
        folder=home,
    )
    assert found.returncode == 0 and "Robustness loss against" in found.stdout, found.stderr
    page = (home / "landscape/report.html").read_text()
    assert "Robustness along the path" in page and page.count("<svg class") == 6
    Draft202012Validator(schema()).validate(
        json.loads((home / "landscape/report.json").read_text())
    )


def test_a_plane_is_measured_and_drawn(home):
    isthmus(
        "train",
        "--model",
        MODEL,
        "--data",
        "bad.npz",
        "--out",
        "third.safetensors",
        "--steps",
        10,
        "--seed",
        9,
        folder=home,
    )
    plane = (
        "plane",
        "a.safetensors",
        "b.safetensors",
        "third.safetensors",
        "--model",
        MODEL,
        "--points",
        3,
    )
    found = isthmus(*plane, "--clean", "digits:test#n=100", "--out", "plane.json", folder=home)
    assert found.returncode == 0, found.stderr
    record = json.loads((home / "plane.json").read_text())
    assert len(record["values"]["bonafide loss"][0]) == 3 and len(record["corners"]) == 3
    drawn = (home / "plane-bonafide-loss.svg").read_text()
    assert drawn.startswith("<svg xmlns=") and "third" in drawn


def test_clean_labels_stay(home):
    found = isthmus(
        "poison",
        "digits:train",
        "--trigger",
        "sinusoid",
        "--target",
        1,
        "--clean-label",
        "--rate",
        0.5,
        "--out",
        "sig.npz",
        folder=home,
    )
    assert found.returncode == 0 and "of 1297 samples changed" in found.stdout, found.stderr


def test_a_folder_is_never_overwritten_and_resume_goes_on(home):
    repair = (
        "repair",
        "a.safetensors",
        "--model",
        MODEL,
        "--clean",
        "digits:test#n=200",
        *FAST,
        "--points",
        3,
        "--out",
        "one",
    )
    assert isthmus(*repair, folder=home).returncode == 0
    first = (home / "one/repaired.safetensors").read_bytes()
    for arguments, says in [(repair, "--resume"), ((*repair, "--bends", 2, "--resume"), "bends")]:
        refused = isthmus(*arguments, folder=home)
        assert refused.returncode == 2 and says in refused.stderr, refused.stderr
    assert isthmus(*repair, "--resume", folder=home).returncode == 0
    again = load_file(home / "one/repaired.safetensors")
    (home / "first.safetensors").write_bytes(first)
    assert all(torch.equal(v, again[k]) for k, v in load_file(home / "first.safetensors").items())


def test_control_c_loses_nothing(home):
    arguments = [
        "repair",
        "a.safetensors",
        "--model",
        MODEL,
        "--clean",
        "digits:test#n=200",
        "--steps",
        "1200",
        "--points",
        "3",
        "--out",
    ]
    command = [sys.executable, "-m", "isthmus", *arguments, "stopped"]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }  # another number, other last bits
    heeds = partial(
        signal.signal, signal.SIGINT, signal.SIG_DFL
    )  # a shell's background jobs, and theirs, ignore it
    with subprocess.Popen(
        command, cwd=home, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=heeds
    ) as running:
        while not list((home / "stopped").glob("*.state")) and running.poll() is None:
            time.sleep(0.05)
        for _ in range(
            10
        ):  # Python loses an interrupt that arrives while an object is being finalized
            running.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                _, error = running.communicate(timeout=2)
                break
    assert running.returncode == 130 and "--resume" in error and "Traceback" not in error
    assert isthmus(*arguments, "stopped", "--resume", folder=home).returncode == 0
    assert isthmus(*arguments, "through", folder=home).returncode == 0
    one, two = (load_file(home / name / "repaired.safetensors") for name in ("stopped", "through"))
    assert all(torch.equal(v, two[k]) for k, v in one.items())


class Code:
    def __reduce__(self):
        return (open, ("executed", "w"))


def write_bad_files(folder):
    good = load_file(folder / "a.safetensors")
    (folder / "code.pt").write_bytes(pickle.dumps(Code()))
    (folder / "cut.safetensors").write_bytes((folder / "a.safetensors").read_bytes()[:900])
    name = next(k for k, v in good.items() if v.ndim == 4)
    save_file({k: v for k, v in good.items() if k != name}, folder / "missing.safetensors")
    save_file({**good, "extra.weight": torch.ones(2)}, folder / "extra.safetensors")
    save_file({**good, name: torch.ones(3, 3)}, folder / "shape.safetensors")
    save_file({**good, name: torch.full_like(good[name], float("nan"))}, folder / "nan.safetensors")
    save_file(
        {**good, "head.weight": torch.zeros_like(good["head.weight"])},
        folder / "chance.safetensors",
    )
    images = np.random.default_rng(0).random((40, 1, 8, 8), dtype=np.float32)
    labels = np.arange(40) % 10
    arrays = {
        "ok": (images, labels),
        "empty": (images[:0], labels[:0]),
        "few": (images[:5], labels[:5]),
        "label": (images, labels + 7),
        "half": (images, labels + 0.5),
        "range": (images * 255, labels),
        "flat": (images[:, 0, 0], labels),
        "color": (np.repeat(images, 3, 1), labels),
    }
    for key, (x, y) in arrays.items():
        np.savez(folder / f"{key}.npz", x=x, y=y, classes=10)
    return name


@pytest.fixture(scope="module")
def spoiled(home):
    return home, write_bad_files(home)


def refused(folder, *arguments):
    """The one line that a refused command prints."""
    found = isthmus(*arguments, folder=folder)
    assert found.returncode == 2, (found.returncode, found.stdout, found.stderr)
    assert found.stderr.startswith("isthmus: got ") and found.stderr.count("\n") == 1, found.stderr
    assert "expected" in found.stderr
    return found.stderr


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
    "command",
    [
        ("connect", "chance.safetensors", "a.safetensors", "--out", "never.safetensors"),
        ("connect", "a.safetensors", "chance.safetensors", "--out", "never.safetensors"),
        ("compare", "chance.safetensors", "--out", "never"),
        ("inspect", "chance.safetensors", "--out", "never.json"),
    ],
)
def test_a_network_at_chance_is_refused_before_any_work(command, spoiled):
    assert "chance" in refused(
        spoiled[0], *command, "--model", MODEL, "--clean", "digits:test#n=200"
    )
    assert not list(spoiled[0].glob("never*"))


@pytest.mark.parametrize(
    "model, data, says",
    [
        (MODEL, "color.npz", "shape (3, 8, 8)"),
        (f"{MODEL},classes=5", "digits:train", "(1, 10)"),
    ],
)
def test_images_that_do_not_fit_the_network_are_refused_before_training(model, data, says, spoiled):
    assert says in refused(
        spoiled[0], "train", "--model", model, "--data", data, "--out", "refused.safetensors"
    )


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
        (("--trigger", "star", "--target", 1), "star"),
        (("--trigger", "patch"), "both"),
        (("--target", "x", "--trigger", "patch"), "'x'"),
        (("--holdout", 1.0), "holdout"),
        (("--device", "abacus"), "abacus"),
        (("--target", 99, "--trigger", "patch"), "99"),
        (("--t", 0.5, "--tolerance", 0.1), "both"),
        (("--tolerance", 0.0), "tolerance"),
        (("--lr", "nan"), "lr"),
        (("--weight-decay", -1), "weight_decay"),
        (("--pad", -1), "pad = -1"),
        (("--pad", 8), "8x8"),
        (("--trigger", "", "--target", 1), "''"),
        (("--steps", 2), "steps = 2 for the mean"),
        (("--second", "averaged", "--rho", 1), "--rho"),
        (("--second", "averaged", "--kind", "polychain"), "--kind"),
        (("--second", "averaged", "--loss", "adversarial", "--eps", 0.1), "--loss"),
        (("--device", "meta"), "meta"),
        (("--bends", 0, "--loss", "adversarial", "--eps", 0.1), "straight path"),
    ],
)
def test_bad_settings_are_refused_in_one_line(arguments, says, spoiled):
    repair = (
        "repair",
        "a.safetensors",
        "--model",
        MODEL,
        "--clean",
        "digits:test#n=200",
        "--out",
        "refused",
        *arguments,
    )
    assert says in refused(
        spoiled[0], *(repair if "--steps" in arguments else (*repair, "--steps", 3))
    )


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("repair", "a.safetensors", "--rho", "nan"), "finite"),
        (("repair", "a.safetensors", "--seed", 2**70), "2^40"),
        (("repair", "a.safetensors", "--kind", "spline"), "bezier"),
        (("repair",), "--tampered"),
        (("repare", "a.safetensors"), "repair"),
        (("repair", "a.safetensors", "--steps", "many"), "many"),
        (("repair", "a.safetensors", "--step", 3), "--step"),
    ],
)
def test_what_the_command_line_cannot_read_is_refused_in_one_line(arguments, says, tmp_path):
    found = isthmus(
        *arguments, "--model", MODEL, "--clean", "digits", "--out", "refused", folder=tmp_path
    )
    assert found.returncode == 2 and says in found.stderr and found.stderr.count("\n") == 1, (
        found.stderr
    )


def test_what_is_drawn_or_named_on_the_way_is_not_overwritten_either(home):
    for name in ("kept.npz", "flat-bonafide-accuracy.svg"):
        (home / name).write_text("mine")
    attack = (
        "attack",
        "a.safetensors",
        "--model",
        MODEL,
        "--data",
        "digits:test#n=20",
        "--attack",
        "fgsm",
    )
    plane = (
        "plane",
        *(f"{name}.safetensors" for name in "abc"),
        "--model",
        MODEL,
        "--clean",
        "digits:test#n=20",
    )
    assert "kept.npz, which exists" in refused(home, *attack, "--out", "kept.npz")
    moved = {
        n: v + 0.01 if v.is_floating_point() else v
        for n, v in load_file(home / "a.safetensors").items()
    }
    save_file(moved, home / "c.safetensors")
    assert "flat-bonafide-accuracy.svg, which exists" in refused(
        home, *plane, "--points", 2, "--out", "flat.json"
    )
    assert (
        (home / "kept.npz").read_text()
        == (home / "flat-bonafide-accuracy.svg").read_text()
        == "mine"
    )


def test_the_same_checkpoint_twice_is_no_second_one(home):
    repair = (
        "repair",
        "a.safetensors",
        "a.safetensors",
        "--model",
        MODEL,
        "--clean",
        "digits:test#n=200",
    )
    assert "a.safetensors again" in refused(home, *repair, "--out", "refused")


@pytest.mark.parametrize(
    "command",
    [
        ("poison", "digits:train"),
        ("evaluate", "a.safetensors", "--model", MODEL, "--data", "digits:test"),
        ("align", "a.safetensors", "b.safetensors", "--model", MODEL, "--clean", "digits:test"),
        ("inspect", "a.safetensors", "--model", MODEL, "--clean", "digits:test"),
        ("train", "--model", MODEL, "--data", "digits:train"),
        *(
            (verb, "curve.safetensors", *more, "--model", MODEL, "--clean", "digits:test")
            for verb, more in (("export", ("--t", 0.5)), ("path", ()))
        ),
    ],
)
def test_no_file_is_overwritten(command, home):
    kept = (home / "b.safetensors").read_bytes()
    isthmus(
        "connect",
        "a.safetensors",
        "b.safetensors",
        "--model",
        MODEL,
        "--clean",
        "digits:test",
        "--bends",
        0,
        "--out",
        "curve.safetensors",
        folder=home,
    )
    assert "b.safetensors, which exists" in refused(home, *command, "--out", "b.safetensors")
    assert "pickles" in refused(home, *command, "--out", "b.pt")
    assert "cannot be written" in refused(home, *command, "--out", "/proc/b.safetensors")
    assert (home / "b.safetensors").read_bytes() == kept


def test_a_curve_is_not_judged_on_the_samples_that_set_its_statistics(home):
    same = ("--clean", "digits:test#n=200", "--data", "digits:test#n=200")
    error = refused(
        home, "path", "curve.safetensors", "--model", MODEL, *same, "--out", "same.json"
    )
    assert "SET#skip" in error


@pytest.mark.parametrize(
    "model, says",
    [
        ("isthmus.models:smal_cnn", "small_cnn"),
        ("isthmus.modles:small_cnn", "isthmus.modles"),
        ("nonsense", "nonsense"),
    ],
)
def test_an_unknown_model_is_refused_in_one_line(model, says, spoiled):
    assert says in refused(
        spoiled[0],
        "repair",
        "a.safetensors",
        "--model",
        model,
        "--clean",
        "digits:test",
        "--out",
        "refused",
    )


def test_endpoints_of_different_architectures_are_refused(spoiled):
    folder, _ = spoiled
    isthmus(
        "train",
        "--model",
        MODEL.replace("8", "16"),
        "--data",
        "digits:train",
        "--steps",
        1,
        "--out",
        "wide.safetensors",
        folder=folder,
    )
    error = refused(
        folder,
        "repair",
        "a.safetensors",
        "wide.safetensors",
        "--model",
        MODEL,
        "--clean",
        "digits:test",
        "--out",
        "refused",
    )
    assert "wide.safetensors" in error and "shape" in error


def test_help_answers_without_heavy_imports(tmp_path):
    heavy = ("matplotlib", "sklearn", "pyarrow", "PIL")
    code = (
        "import sys; from isthmus.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    )
    code += f"print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert found.stdout.splitlines()[-1] == "[]"


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
