"""`isthmus compare`, `inspect`, `references`, `attack` and `evaluate`."""

import json

import pytest
from support.command_line import FAST, MODEL, TRIGGER, done, isthmus, refused

from isthmus.cli.inspect import _Inspected, _Smaller
from isthmus.cli.words import parse_target
from isthmus.data import Data, load_data, save_npz
from isthmus.defenses import Inverted, all_rivals
from isthmus.defenses.inspection.inspect import Inspection
from isthmus.metrics import Rate
from isthmus.training import Training
from isthmus.types import BadInput


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
        *("--attack", "pgd", "--eps", "0.1", "--attack-steps", 3),
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
    assert "health" in record["as received"]["robust accuracy"]
    assert "robust accuracy, PGD in Linf of " in found.stdout
    assert "accuracy" not in record["as received"]  # no evaluation data were given
    assert isthmus(*arguments, folder=home).returncode == 2
    assert isthmus(*arguments, "--resume", folder=home).returncode == 0
    assert json.loads((home / "side by side/compare.json").read_text())["rows"] == record["rows"]


INSPECT = ("--model", MODEL, "--clean", "digits:test#n=64", "--steps", 10)


@pytest.fixture(scope="module")
def inspected(home):
    """The folder, with an inspection of both networks in it."""
    for name in "ab":
        files = (f"{name}.safetensors", "--out", f"{name} inspected.json")
        inspection = isthmus("inspect", *files, *INSPECT, folder=home)
        assert inspection.returncode == 0, inspection.stderr
    return home


@pytest.fixture(scope="module")
def referred(inspected):
    """The folder, with references made from these inspections."""
    files = ("a inspected.json", "b inspected.json", "--out", "two.json")
    made = isthmus("references", *files, "--name", "two", folder=inspected)
    assert made.returncode == 0 and "2 clean networks (two)" in made.stdout, made.stderr
    return inspected


def test_compressed_networks_are_inspected_as_well(home):
    few = ("--model", MODEL, "--clean", "digits:test#n=64", "--steps", 3, "--compressed")
    done = isthmus("inspect", "a.safetensors", *few, "--out", "small.json", folder=home)
    assert done.returncode == 0, done.stderr
    compressed = json.loads((home / "small.json").read_text())["compressed"]
    names = ["pruning by 90 %", "rounding to 8 bits", "rounding to 4 bits"]
    assert list(compressed) == names and all(f"after {name}: " in done.stdout for name in names)
    assert compressed[names[1]]["decision"] == "cannot tell"
    assert all(len(part["triggers"]) == 22 for part in compressed.values() if "refused" not in part)
    words = " ".join(done.stdout.split())
    assert words.count("; accuracy ") == sum("p" in p for p in compressed.values())
    assert 0 < compressed[names[1]]["accuracy"]["value"] <= 1
    assert "tested by itself" not in words  # without references nothing is tested


@pytest.fixture
def judged(monkeypatch):
    """An inspection of four networks of which two are called suspicious, one far less accurate."""
    trigger = Inverted.__new__(Inverted)
    parts = {"index": {}, "statistics": {}, "settings": {}, "found": (), "oddest": trigger}
    monkeypatch.setattr("isthmus.cli.inspect._table", lambda found, classes: "triggers")

    def one(decision, p):
        return Inspection(decision, "as odd as 1 of 60", p, 3, **parts)

    smaller = {
        "pruning by 90 %": _Smaller(one("suspicious", 0.02), Rate(80, 200)),
        "rounding to 8 bits": _Smaller(one("not suspicious", 0.4), Rate(187, 200)),
        "rounding to 4 bits": BadInput("a network", expected="another", fix="leave it"),
    }
    return _Inspected(one("suspicious", 0.05), Rate(190, 200), smaller, 10, ("a",), {})


def test_accuracy_stands_beside_each_verdict_and_chance_below_all(judged, capsys):
    judged.show()
    lines = " ".join(capsys.readouterr().out.replace("\xa0", " ").split())
    assert "; accuracy 93.5 % (95.0 % before)" in lines
    far = "; accuracy 40.0 % (95.0 % before): it costs more than 10.0 points"
    assert far in lines and lines.count("may look suspicious without a trigger") == 1
    assert lines.count("each of the 3 networks is tested by itself") == 1
    assert "in up to 15.0 % of cases" in lines
    assert judged.first_of({"not suspicious"}).decision == "not suspicious"


def test_nothing_is_claimed_of_a_network_without_references(inspected):
    files = ("a.safetensors", "--out", "inspected.json")
    again = isthmus("inspect", *files, *INSPECT, folder=inspected)
    assert again.returncode == 0 and "cannot tell" in again.stdout, again.stderr
    record = json.loads((inspected / "inspected.json").read_text())
    assert record["decision"] == "cannot tell" and len(record["triggers"]) == 22


def test_two_references_are_too_few_to_call_a_network_suspicious(referred):
    settings = (*INSPECT[:4], "--references", "two.json")  # the steps are those of the references
    beside = isthmus("inspect", "a.safetensors", *settings, folder=referred)
    assert beside.returncode == 0, beside.stderr
    assert "2 clean networks (two) cannot resolve" in " ".join(beside.stdout.split())


@pytest.mark.parametrize(
    ("second", "word"), [("a inspected.json", "there already"), ("two.json", "got")]
)
def test_references_are_made_of_one_inspection_for_each_network(second, word, referred):
    files = ("a inspected.json", second, "--out", "x.json")
    made = isthmus("references", *files, "--name", "x", folder=referred)
    assert made.returncode == 2 and word in made.stderr
    assert not (referred / "x.json").exists()


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
        found.returncode == 0
        and "robust accuracy" in found.stdout
        and "Linf of 0.1" in found.stdout
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
    robust = under["robust accuracy"]
    health = robust.pop("health")
    assert health["attack"].startswith("PGD")
    assert robust == after["accuracy"] and robust["n"] == 500
    assert under["robust accuracy"]["hits"] < under["accuracy"]["hits"]


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


OWN = """
def patch(x):
    x = x.clone()
    x[:, :, 6:8, 6:8] = 1.0
    return x


def narrower(x):
    return x[..., 1:]


def in_place(x):
    x[:, :, 6:8, 6:8] = 1.0
    return x


def raises(x):
    raise KeyError("none")


def leaves(x):
    raise SystemExit(3)


def two(x, y):
    return x


size = 2
"""


def test_a_trigger_of_ones_own_is_named_as_a_function(home):
    """The same as the patch that comes with the library, and refused where it is no trigger."""
    (home / "own_triggers.py").write_text(OWN)
    evaluate = ("evaluate", "a.safetensors", "--model", MODEL, "--data", "digits:test#n=100")
    evaluate = (*evaluate, "--target", 1, "--trigger")
    assert done(home, *evaluate, "own_triggers:patch") == done(
        home, *evaluate, "Patch(size=2, at=(6, 6))"
    )
    assert done(home, *evaluate, "own_triggers:in_place") == done(
        home, *evaluate, "own_triggers:patch"
    )
    for failing in ("raises", "leaves", "two"):
        said = refused(home, *evaluate, f"own_triggers:{failing}")
        assert f"trigger own_triggers:{failing}, which fails on images of shape" in said
    assert "which is no function" in refused(home, *evaluate, "own_triggers:size")
    assert "own_triggers" in refused(home, *evaluate, "own_triggers:missing")
    assert "1, 8, 7)" in refused(home, *evaluate, "own_triggers:narrower")


def test_a_class_is_a_target_by_its_name_and_what_is_drawn_or_left_out_is_said(home):
    digits = load_data("digits:test#n=100")
    names = ["zero", "cat [1]", *"cdefghij"]
    save_npz(Data(digits.x, digits.y, names), home / "named.npz")
    evaluate = ("evaluate", "a.safetensors", "--model", MODEL, "--trigger", "patch")
    found = [
        isthmus(*evaluate, "--data", "named.npz", "--target", target, folder=home)
        for target in ("cat [1]", "1")
    ]
    assert found[0].returncode == 0, found[0].stderr
    assert found[0].stdout == found[1].stdout
    wrong = refused(home, *evaluate, "--data", "named.npz", "--target", "cat")
    assert "did you mean cat [1]" in wrong
    path = ("path", "drawn.safetensors", "--model", MODEL, "--points", 2, "--out", "drawn.json")
    ends = ("connect", "a.safetensors", "b.safetensors", "--model", MODEL, "--bends", 0)
    isthmus(*ends, "--clean", "digits:test", "--out", "drawn.safetensors", folder=home)
    data = ("--clean", "digits:test#n=150", "--data", "digits:test#n=160,seed=0")
    said = isthmus(*path, *data, folder=home)
    assert said.returncode == 0, said.stderr
    assert "digits:test#n=150: 150 samples, drawn at random with seed 0" in said.stdout
    assert "150 of 160 evaluation samples are left out" in said.stdout


def test_a_number_that_names_one_class_and_counts_to_another_is_refused():
    with pytest.raises(BadInput, match="the name of class 0 and the index of another"):
        parse_target("1", ("1", "0"))
    assert parse_target("7", ("7", "0")) == 0
    assert parse_target("1", ("0", "1")) == 1
