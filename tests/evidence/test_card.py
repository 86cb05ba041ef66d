"""The model card: front matter that YAML reads, figures of the report, hostile names as text."""

import re

import pytest
import yaml
from support.markdown import codes, is_plain
from support.records import HOSTILE, example, hostile, variant

from isthmus.evidence.card import to_card, write_card
from isthmus.evidence.record import Report
from isthmus.evidence.text import to_markdown
from isthmus.evidence.verdict import decide
from isthmus.types import BadInput

ABSENT = {"trigger": False, "evaluation": False, "baselines": False, "confident": False}


def front(card):
    """Return the front matter and what follows it."""
    _, matter, text = re.split(r"^---$", card, maxsplit=2, flags=re.MULTILINE)
    return yaml.safe_load(matter), text


@pytest.mark.parametrize("parts", [{}, ABSENT], ids=["full", "without parts"])
def test_a_card_holds_what_the_report_says(parts):
    report = Report.read(variant(example(), **parts))
    matter, text = front(to_card(report))
    assert matter["isthmus"] == report.provenance.isthmus
    assert matter["checkpoint_sha256"] == (
        report.provenance.checkpoint.sha256 if report.provenance.checkpoint else None
    )
    assert to_markdown(report).strip() in text
    for samples in report.provenance.data.values():
        assert f"`{samples.sha256}`" in text and f"{samples.n:,}" in text
    assert all(heading in text for heading in ("## Data", "## How it was made"))
    assert not re.search(r"\bNone\b|\u202f|\xa0", text)


def test_hostile_names_are_text():
    record = hostile(example())
    record["provenance"]["network"] = {"architecture": f"{HOSTILE}\n---\n", "parameters": 3}
    matter, text = front(to_card(record))
    assert matter["architecture"] == f"{HOSTILE}\n---\n"
    assert set(matter) == {
        "tags",
        "pipeline_tag",
        "architecture",
        "checkpoint_sha256",
        "isthmus",
    }
    assert is_plain(text)


def test_commands_and_names_of_data_are_shown_as_they_are():
    record = example()
    command = "isthmus repair my_net.pt --model small_cnn --clean 'a_b*c_d' --out o `x` #1"
    record["provenance"]["command"] = command
    record["provenance"]["data"] = {"a_b|c_d": record["provenance"]["data"]["bonafide"]}
    report = Report.read(record)
    shown = codes(to_card(report))
    assert command in shown and "a_b|c_d" in shown
    assert record["provenance"]["checkpoint"]["path"] in shown
    assert decide(report).next in codes(to_markdown(record))


@pytest.mark.parametrize(
    ("bends", "steps", "words"),
    [
        (0, 0, "Path: a straight line between the two networks; nothing on it was trained."),
        (1, 1, "Path: Bezier, 1 bend, 1 step of training."),
        (2, 2000, "Path: Bezier, 2 bends, 2,000 steps of training."),
    ],
)
def test_the_path_is_said_as_on_the_page(bends, steps, words):
    record = example()
    record["curve"].update(kind="Bezier", bends=bends, steps=steps)
    assert f"- {words}\n" in to_card(record)


def test_a_card_is_written_beside_the_network(tmp_path):
    file = write_card(example(), tmp_path)
    assert file == tmp_path / "README.md" and file.read_text() == to_card(example())
    with pytest.raises(BadInput):
        write_card({"schema": "none"}, tmp_path)


def test_a_network_whose_precision_was_timed_says_how_it_is_made_again():
    record = example()
    for training in record["trainings"]:
        training["precision"] = "bf16"
    assert "add `--precision bf16`" in to_card(record)
    record["provenance"]["command"] += " --precision bf16"
    assert "again add" not in to_card(record)
    record["provenance"]["command"] = record["provenance"]["command"].replace("bf16", "auto")
    assert "again add" in to_card(record)
