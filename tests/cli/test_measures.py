"""`isthmus compare`, `inspect`, `references`, `attack` and `evaluate`."""

import json

import pytest
from support.command_line import FAST, MODEL, TRIGGER, isthmus, refused

from isthmus.defenses import all_rivals
from isthmus.training import Training


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
