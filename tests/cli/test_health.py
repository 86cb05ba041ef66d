"""`isthmus health`, and what the other commands say of their robust numbers."""

import json

from support.command_line import MODEL, isthmus, refused

from isthmus.evidence import read_written

SAMPLES = ("--model", MODEL, "--data", "digits:test#n=60")
QUICK = ("--eps", "0.1", "--attack-steps", 3)


def test_health_writes_a_page_with_every_indicator(home):
    done = isthmus(*("health", "a.safetensors", *SAMPLES, *QUICK), "--out", "trust", folder=home)
    assert done.returncode == 0, done.stderr
    record = json.loads((home / "trust/report.json").read_text())
    assert record["schema"] == "isthmus-health/1" and read_written(record).record() == record
    assert "restarts=5" in record["attack"] and len(record["indicators"]) == 28
    names = [row["name"] for row in record["indicators"]]
    assert all(name in done.stdout for name in ("alignment", "black box ahead"))
    page = (home / "trust/report.html").read_text()
    assert all(name in page for name in names) and page.count("<svg class=") == 2
    assert record["robust"]["health"]["trustworthy"] == ("not to be trusted" not in done.stdout)


def test_a_robust_number_is_printed_and_stored_with_its_health(home):
    weak = ("--attack", "pgd", "--eps", "0.2", "--attack-steps", 1)
    done = isthmus(
        *("evaluate", "a.safetensors", *SAMPLES, *weak), "--out", "weak.json", folder=home
    )
    assert done.returncode == 0, done.stderr
    health = json.loads((home / "weak.json").read_text())["robust accuracy"]["health"]
    assert len(health["indicators"]) == 28
    note = "nothing found that speaks against" if health["trustworthy"] else "not to be trusted"
    assert note in " ".join(done.stdout.split())
    attacked = isthmus("attack", "a.safetensors", *SAMPLES, *QUICK, folder=home)
    assert "robust accuracy, PGD in Linf of " in attacked.stdout, attacked.stderr


def test_layers_to_pass_through_are_named_or_refused(home):
    named = ("--straight-through", "nothing")
    assert "'nothing'" in refused(home, "attack", "a.safetensors", *SAMPLES, *named)
    attacked = (*named, "--attack", "pgd")
    assert "'nothing'" in refused(home, "evaluate", "a.safetensors", *SAMPLES, *attacked)
    assert "--straight-through" in refused(home, "evaluate", "a.safetensors", *SAMPLES, *named)


def test_health_refuses_a_folder_that_is_taken(home):
    (home / "health-taken").mkdir()
    (home / "health-taken/notes").write_text("mine")
    message = refused(home, "health", "a.safetensors", *SAMPLES, "--out", "health-taken")
    assert "health-taken" in message
