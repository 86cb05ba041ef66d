"""What a run decides once: the same ever after, whatever would be decided then."""

import json

import pytest
from support.refusals import refused

from isthmus.runs.decisions import decided
from isthmus.runs.folder import claimed


def never():
    raise AssertionError("decided a second time")


def test_a_decision_is_made_once_for_each_name(tmp_path):
    file = tmp_path / "decisions.json"
    assert decided(file, "precision", lambda: "bf16") == "bf16"
    assert decided(file, "steps", lambda: 40) == 40
    assert decided(file, "precision", never) == "bf16"
    assert json.loads(file.read_text()) == {"precision": "bf16", "steps": 40}


def test_without_a_file_it_is_made_each_time():
    assert decided(None, "steps", lambda: 1) == 1
    assert decided(None, "steps", lambda: 2) == 2


def test_a_file_of_something_else_is_refused(tmp_path):
    file = tmp_path / "decisions.json"
    file.write_text("[1]")
    refused(lambda: decided(file, "steps", never), "holds no decisions of a run")


def test_a_run_that_fails_before_its_work_gives_its_folder_back(tmp_path):
    folder = tmp_path / "out"
    with pytest.raises(ZeroDivisionError), claimed(folder, {}, resume=False):
        decided(folder / "decisions.json", "steps", lambda: 1)
        raise ZeroDivisionError
    assert not folder.exists()
    with pytest.raises(ZeroDivisionError), claimed(folder, {}, resume=False):
        decided(folder / "decisions.json", "steps", lambda: 1)
        (folder / "work").touch()
        raise ZeroDivisionError
    assert sorted(file.name for file in folder.iterdir()) == ["decisions.json", "run.json", "work"]
