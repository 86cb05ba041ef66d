"""`--minutes`: as much work as fits, decided once, by a pace that the tests set themselves."""

import itertools
import json
import re

import pytest
import torch
from safetensors.torch import load_file
from support.command_line import MODEL, isthmus, refused

from isthmus import training
from isthmus.cli import estimate
from isthmus.cli.estimate import Pace, Part
from isthmus.cli.minutes import TimeLimit
from isthmus.runs.wording import unwritten
from isthmus.types import BadInput

CLEAN = ("--model", MODEL, "--clean", "digits:test#n=60")
PACE = Pace(plain=2**-10, graded=2**-8, trained=2**-8)
ONE = Part("step", plain=2, trained=3)
FIXED = [Part("report", plain=1000)]


@pytest.fixture
def paced(monkeypatch):
    """Return a function that sets how many seconds each pass of a batch takes from here on."""

    def set_pace(seconds):
        monkeypatch.setattr(estimate, "_seconds", lambda work, device: seconds)

    return set_pace


@pytest.mark.parametrize("minutes", [0.1, 0.5, 3.0, 10.0])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_the_amount_is_the_largest_that_fits(minutes, share):
    amount = TimeLimit(minutes).amount("steps", PACE, FIXED, ONE, share=share)
    beside = PACE.seconds(FIXED[0])
    takes = (beside + n * PACE.seconds(ONE) for n in itertools.count())
    fitting = itertools.takewhile(lambda seconds: seconds <= 60 * minutes * share, takes)
    assert amount == len(list(fitting)) - 1 > 0
    most = amount // 2
    assert TimeLimit(minutes).amount("steps", PACE, FIXED, ONE, share=share, most=most) == most


def test_the_time_that_is_asked_for_instead_suffices():
    with pytest.raises(BadInput, match=r"in which 0 steps fit.*time for 500 or more") as refusal:
        TimeLimit(0.01).amount("steps", PACE, FIXED, ONE, least=500)
    minutes = float(str(refusal.value).rpartition("--minutes ")[2])
    assert 500 <= TimeLimit(minutes).amount("steps", PACE, FIXED, ONE) < 1000


def test_an_amount_is_decided_once(tmp_path):
    file = tmp_path / "decisions.json"
    first = TimeLimit(1.0).amount("steps", PACE, [], ONE, file=file)
    slower = Pace(1.0, 1.0, 1.0)
    assert TimeLimit(1.0).amount("steps", slower, [], ONE, file=file) == first
    assert TimeLimit(1.0).amount("steps", slower, [], ONE) < first
    assert TimeLimit(2.0).amount("steps", slower, [], ONE, file=file) == 24


@pytest.mark.parametrize(
    ("minutes", "steps", "message"),
    [(-1.0, False, "a time above zero"), (0.0, False, "above zero"), (5.0, True, "one of them")],
)
def test_times_that_decide_nothing_are_refused(minutes, steps, message):
    with pytest.raises(BadInput, match=message):
        TimeLimit(minutes).check("--steps", given=steps)


def test_a_training_in_minutes_is_one_of_that_many_steps_and_resumes(home, paced, monkeypatch):
    start = ("train", "--model", MODEL, "--data", "bad.npz#n=100", "--batch-size", 20)
    start = (*start, "--precision", "fp32")
    paced(5.0)  # for a batch of 64: one of 20 takes 1.5625 s
    whole = isthmus(*start, "--minutes", 0.2, "--out", "timed.safetensors", folder=home)
    assert whole.returncode == 0, whole.stderr
    assert "--minutes 0.2 allows 7 steps" in whole.stderr
    by_steps = isthmus(*start, "--steps", 7, "--out", "stepped.safetensors", folder=home)
    assert by_steps.returncode == 0, by_steps.stderr

    cut = ("--minutes", 0.2, "--out", "cut_short.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr(training, "fit", interrupted)
        assert isthmus(*start, *cut, folder=home).returncode == 130
    paced(50.0)
    resumed = isthmus(*start, *cut, "--resume", folder=home)
    assert resumed.returncode == 0, resumed.stderr
    weights = [load_file(home / f"{n}.safetensors") for n in ("timed", "stepped", "cut_short")]
    for name, value in weights[0].items():
        assert all(torch.equal(value, other[name]) for other in weights[1:])
    assert not list(home.glob(".*cut_short*"))


def interrupted(*_, **__):
    raise KeyboardInterrupt


def test_a_repair_in_minutes_takes_the_steps_and_points_that_fit(home, paced, tmp_path):
    paced(0.05)
    out = tmp_path / "repair"
    options = ("--second", "permuted", "--precision", "fp32", "--points", 100)
    options = (*options, "--minutes", 0.2, "--out", out)
    done = isthmus("repair", "a.safetensors", *CLEAN, *options, folder=home)
    assert done.returncode == 0, done.stderr
    decided = json.loads((out / "decisions.json").read_text())
    points, steps = decided["points in 0.2 minutes"], decided["steps in 0.2 minutes"]
    assert f"--minutes 0.2 allows {steps:,} of" in done.stderr
    record = json.loads((out / "report.json").read_text())
    assert points < 100 and len(record["path"]["t"]) == points + 2  # and both ends
    assert record["curve"]["steps"] == steps
    (out / "README.md").unlink()  # a finished repair is not made again
    again = isthmus("repair", "a.safetensors", *CLEAN, *options, "--resume", folder=home)
    assert again.returncode == 0 and f"allows {steps:,} of" in again.stderr, again.stderr


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        (("b.safetensors", "--bends", 0), {}),
        (("b.safetensors", "--bends", 0, "--compare"), {"baselines": 4 * 40}),
        (("b.safetensors", "--bends", 1), {"training": 40}),
        (("--second", "permuted", "--rho", 0), {"training": 20}),
        (("--second", "fine-tuned"), {"training": 20 + 40}),
        (("--second", "fine-tuned", "--bends", 0), {"training": 20}),
        (("--second", "averaged"), {"training": 3 * 13}),
        (("--second", "unlearned"), {"training": 2 * 45}),
    ],
    ids=str,
)
def test_an_estimate_of_a_repair_counts_the_training_that_runs(
    options, seconds, home, paced, tmp_path
):
    """A second for each gradient of a batch: of 20 steps, at two gradients by default."""
    paced(1.0)  # for the 60 clean images that are timed
    fixed = ("--steps", 20, "--batch-size", 60, "--lr", 0.05, "--precision", "fp32")
    options = (*options, *fixed, "--points", 3, "--out", tmp_path / "repair")
    done = isthmus("repair", "a.safetensors", *options, *CLEAN, folder=home)
    assert done.returncode == 0, done.stderr
    told = re.findall(r"[:,] (training|baselines) (\d+):(\d\d) min", done.stderr)
    assert {name: 60 * int(minutes) + int(rest) for name, minutes, rest in told} == seconds


def test_a_straight_path_leaves_its_minutes_to_the_points(home, paced, tmp_path):
    paced(0.05)  # 200 steps of a curve would take 40 seconds
    ends = ("repair", "a.safetensors", "b.safetensors", *CLEAN, "--bends", 0)
    options = ("--minutes", 0.2, "--points", 3, "--out", tmp_path / "straight")
    done = isthmus(*ends, *options, folder=home)
    assert "allows 200 of 200 steps" in done.stderr, done.stderr


def test_a_comparison_in_minutes_shares_the_steps(home, paced, tmp_path):
    paced(0.1)
    options = ("--precision", "fp32", "--minutes", 1.0, "--out", tmp_path / "table")
    done = isthmus("compare", "a.safetensors", *CLEAN, *options, folder=home)
    assert done.returncode == 0, done.stderr
    assert "--minutes 1 allows" in done.stderr


def test_an_inspection_in_minutes_takes_fewer_steps(home, paced):
    paced(0.1)
    inspect = ("inspect", "a.safetensors", *CLEAN, "--minutes", 1.0)
    done = isthmus(*inspect, folder=home)
    assert done.returncode == 0, done.stderr
    assert "--minutes 1 allows" in done.stderr
    assert "a search as long as that of references takes --minutes " in done.stderr


def test_a_path_in_minutes_measures_fewer_points_and_resumes_with_them(straight, paced, tmp_path):
    paced(6.0)
    out = tmp_path / "path.json"
    path = ("path", "straight.safetensors", *CLEAN, "--out", out)
    done = isthmus(*path, "--minutes", 1.0, folder=straight)
    assert done.returncode == 0, done.stderr
    count = len(json.loads(out.read_text())["t"])
    assert 3 <= count < 21 and f"--minutes 1 allows {count} of 21 points" in done.stderr
    out.unlink()
    paced(0.001)
    again = isthmus(*path, "--minutes", 1.0, folder=straight)
    assert again.returncode == 0 and len(json.loads(out.read_text())["t"]) == count


def test_an_attack_in_minutes_takes_fewer_samples(home, paced, tmp_path):
    paced(1.0)
    options = ("--model", MODEL, "--data", "digits:test#n=60", "--eps", 0.05)
    attack = ("attack", "a.safetensors", *options, "--minutes", 0.05, "--out", tmp_path / "x.npz")
    done = isthmus(*attack, folder=home)
    assert done.returncode == 0, done.stderr
    assert "of 60 samples" in done.stderr


@pytest.mark.parametrize("command", ["repair", "compare"])
def test_minutes_in_which_nothing_can_be_done_are_refused_with_the_way_out(command, home, paced):
    paced(10.0)
    options = (*CLEAN, "--precision", "fp32", "--minutes", 0.1, "--out", f"short_{command}")
    assert "pass --minutes" in refused(home, command, "a.safetensors", *options)
    both = refused(home, command, "a.safetensors", *options, "--steps", 20)
    assert "--minutes and --steps" in both
    assert not list(home.glob("*short_*"))


def test_a_training_that_is_refused_leaves_nothing(home, paced, monkeypatch):
    paced(10.0)
    train = ("train", "--model", MODEL, "--data", "bad.npz#n=100", "--out", "none.safetensors")
    assert "pass --minutes" in refused(home, *train, "--minutes", 0.001)
    assert not list(home.glob(".*none*"))
    with monkeypatch.context() as patch:
        patch.setattr(training, "fit", on_a_full_disk)
        assert "could not be written" in refused(home, *train, "--steps", 2)
    assert not list(home.glob(".*none*"))


def on_a_full_disk(*_, checkpoint, **__):
    assert checkpoint.with_suffix(".run").is_dir()  # the precision is decided
    raise unwritten(checkpoint, OSError("No space left on device"))
