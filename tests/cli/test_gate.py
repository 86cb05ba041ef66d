"""Gates of pipelines: exit statuses, JSON on standard output, JUnit."""

import json
import xml.etree.ElementTree as ElementTree

import pytest
from support.command_line import MODEL, isthmus, refused

ATTACK = ("attack", "a.safetensors", "--model", MODEL, "--data", "digits:test#n=60")
WEAK = ("--attack", "fgsm", "--eps", "0.01")


@pytest.mark.parametrize(("least", "status"), [("0", 0), ("1", 1), (None, 0)])
def test_an_attack_passes_or_fails_and_prints_one_json(least, status, home, tmp_path):
    report = tmp_path / "junit.xml"
    gate = () if least is None else ("--fail-below", least)
    ended = isthmus(
        *ATTACK, "--attack", "pgd", "--eps", "0.3", *gate, "--json", "--junit", report, folder=home
    )
    assert ended.returncode == status, ended.stderr
    record = json.loads(ended.stdout)
    assert record["command"] == "attack" and record["attack"] == "pgd"
    robust = record["robust accuracy"]
    assert robust["hits"] < robust["n"] == 60
    assert record["gate"] == (None if least is None else record["gate"])
    if least is not None:
        assert record["gate"]["passed"] == (status == 0)
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert len(suite.findall("testcase")) == 1
    assert len(suite.findall("testcase/failure")) == status


def test_without_json_the_words_are_on_standard_output(home):
    ended = isthmus(*ATTACK, *WEAK, "--fail-below", "0.1", folder=home)
    assert ended.returncode == 0 and "robust accuracy" in ended.stdout.lower()


@pytest.mark.parametrize(("on", "status"), [("suspicious", 0), ("doubt", 1)])
def test_an_inspection_that_cannot_tell_fails_where_doubt_is_a_failure(on, status, home):
    inspect = ("inspect", "a.safetensors", "--model", MODEL, "--clean", "digits:test#n=60")
    ended = isthmus(*inspect, "--steps", 2, "--fail-on", on, "--json", folder=home)
    assert ended.returncode == status, ended.stderr
    record = json.loads(ended.stdout)
    assert record["decision"] == "cannot tell" and record["gate"]["passed"] == (status == 0)


def test_a_share_in_percent_is_refused(home):
    assert "write 0.4" in refused(home, *ATTACK, *WEAK, "--fail-below", "40")
