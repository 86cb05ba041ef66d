"""The report: its contract and its numbers, with absent parts and hostile names."""

import html
import io
import json
import math
import re
from html.parser import HTMLParser
from itertools import product

import pytest
from jsonschema import Draft202012Validator
from rich.console import Console
from support.markdown import is_plain
from support.records import HOSTILE, example, hostile, surrounded, variant

from isthmus import Patch, fit, load_data, repair
from isthmus.evidence import Judge, evidence
from isthmus.evidence.page import to_html, write_report
from isthmus.evidence.record import Network, Report, Value, read_report, values_of
from isthmus.evidence.rendering import barrier_in_words
from isthmus.evidence.schema import generate, schema
from isthmus.evidence.summary import end_names
from isthmus.evidence.text import table, to_markdown, verdict_lines
from isthmus.evidence.verdict import decide
from isthmus.evidence.words import change, format_value
from isthmus.metrics import Mean, Quantity, Rate, as_record
from isthmus.models import small_cnn
from isthmus.types import BadInput

VALIDATOR = Draft202012Validator(schema(), format_checker=Draft202012Validator.FORMAT_CHECKER)


@pytest.fixture
def full():
    return example()


@pytest.fixture(scope="module")
def page():
    return to_html(example())


@pytest.fixture
def quick(monkeypatch):
    """Leave the figures out of tests that only read text: drawing them is most of the work."""
    monkeypatch.setattr("isthmus.evidence.page._twice", lambda draw, name, words: "")


class Reader(HTMLParser):
    """Tags with their attributes, and the text that a reader sees: neither styles nor figures."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.words, self.silent = [], [], 0
        self.feed(page)
        self.text = re.sub(
            r"\s+", " ", " ".join(self.words)
        )  # a non-breaking space too reads as a space

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.silent += tag in ("style", "svg")

    def handle_endtag(self, tag):
        self.silent -= tag in ("style", "svg")

    def handle_data(self, data):
        if not self.silent:
            self.words.append(data.strip())


def seen(record):
    return Reader(to_html(record)).text


def printed(record, width=80):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table(Report.read(record)))
    return console.export_text()


def network(measured):
    return Network(**values_of({"bonafide accuracy": Rate(9, 10), **measured}))


# ── the contract ──


def test_the_schema_is_one_and_the_example_satisfies_it(full):
    Draft202012Validator.check_schema(schema())
    VALIDATOR.validate(full)
    VALIDATOR.validate(Report.read(full).record())


def test_the_published_schema_is_that_of_the_types():
    assert schema() == generate(), "run python -m isthmus.evidence.schema"


def test_a_report_of_before_units_is_read_and_written_with_them(full):
    """Nothing else of it changes, and no entry is lost."""

    def without_units(part):
        if isinstance(part, dict):
            return {name: without_units(v) for name, v in part.items() if name != "unit"}
        return [without_units(v) for v in part] if isinstance(part, list) else part

    full["path"]["values"]["lambda_max"] = [{"value": 3.5}] * 11
    written = Report.read(full).record()
    assert without_units(written) == without_units(full)
    units = {name: series[0]["unit"] for name, series in written["path"]["values"].items()}
    assert units["lambda_max"] == "nats per squared unit of input"
    assert {units["loss"], units["bonafide loss"]} == {"nats"}
    assert {units["accuracy"], units["attack success"]} == {"share"}
    assert Report.read(written).record() == written


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (["schema"], "isthmus-report/2"),
        (["verdict"], ""),
        (["choice", "t"], 1.5),
        (["choice", "confident"], "yes"),
        (["after", "accuracy"], 0.84),
        (["after", "accuracy"], {"value": 0.84, "hits": 3}),
        (["after", "accuracy"], {"value": 0.84, "share": 3}),
        (["path", "values", "bonafide loss"], []),
        (["provenance", "data", "bonafide", "sha256"], "3f"),
        (["limit"], []),
    ],
)
def test_the_schema_refuses(full, at, value):
    part = full
    for step in at[:-1]:
        part = part[step]
    part[at[-1]] = value
    assert not VALIDATOR.is_valid(full)


def test_what_is_written_is_strict_json_that_reads_back(full, tmp_path, quick):
    full["path"]["values"]["loss"][5]["value"] = math.inf
    full["curve"]["losses"][0] = math.nan
    full["after"]["accuracy"]["low"] = math.nan
    data, page = write_report(full, tmp_path / "new")
    back = json.loads(data.read_text(), parse_constant=pytest.fail)
    VALIDATOR.validate(back)
    assert back["path"]["values"]["loss"][5]["value"] is None and back["curve"]["losses"][0] is None
    assert read_report(data).record() == back
    assert page.read_text() == to_html(back)
    assert sorted(f.name for f in (tmp_path / "new").iterdir()) == ["report.html", "report.json"]


def test_the_same_record_gives_the_same_page(full, page):
    assert to_html(full) == page


@pytest.mark.parametrize(
    "spoil",
    [
        lambda r: r.pop("choice"),
        lambda r: r.update(schema="isthmus-report/9"),
        lambda r: r["path"].pop("t"),
        lambda r: r["choice"].update(coefficients=None),
        lambda r: r["after"]["accuracy"].update(value="high"),
        lambda r: r["after"]["accuracy"].pop("n"),
        lambda r: r["after"]["accuracy"].pop("low"),
        lambda r: r["after"].pop("bonafide accuracy"),
        lambda r: r["path"]["values"]["loss"].pop(),
        lambda r: r["choice"].update(confident="yes"),
        lambda r: r["curve"].update(steps=2.5),
        lambda r: r.update(extra=object()),
    ],
)
def test_what_is_no_report_is_refused_in_one_line_and_leaves_no_file(full, tmp_path, spoil):
    spoil(full)
    with pytest.raises(BadInput) as error:
        write_report(full, tmp_path)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_report_is_refused(tmp_path):
    file = tmp_path / "report.json"
    file.write_text("[]")
    with pytest.raises(BadInput, match="isthmus-report/1"):
        read_report(file)


# ── the numbers ──


def test_the_page_shows_the_numbers_of_the_record(full, page):
    text = Reader(page).text
    values = [v for part in ("before", "after") for n, v in full[part].items() if n != "per_class"]
    values += [v for part in ("before", "after") for v in full[part]["per_class"].values()]
    values += [v for b in full["baselines"] for v in b.values() if isinstance(v, dict)]
    values += [v for name, s in full["path"]["values"].items() if "loss" not in name for v in s]
    for value in values:
        assert f"{100 * value['value']:.1f} %" in text
    for value in values[:6]:
        assert f"{value['hits']:,} of {value['n']:,}" in text
        assert f"{100 * value['low']:.1f}\u2013{100 * value['high']:.1f} %" in text
    for value in full["path"]["values"]["loss"]:
        assert (
            f"{value['value']:.3f}" in text
            and f"{value['low']:.3f}\u2013{value['high']:.3f}" in text
        )
    for share in ("36.0", "48.0", "16.0"):
        assert f"{share} %" in text
    for said in (
        "t = 0.4",
        full["choice"]["rule"],
        "from 500 bonafide samples",
        "5d" * 32,
        "3f" * 32,
        "13:32 min",
    ):
        assert said in text


def test_the_change_is_after_less_before(full, quick):
    moved = 100 * (full["after"]["accuracy"]["value"] - full["before"]["accuracy"]["value"])
    assert moved < 0 and f"\u2212{abs(moved):.1f} points" in seen(full)
    share, loss = (lambda v: Value(value=v, unit="share")), (lambda v: Value(value=v, unit="nats"))
    assert change(share(0.5), share(0.5004)) == ("0.0 points", False)
    assert change(loss(1.5), loss(2.0)) == ("+0.500", False)
    assert change(Value(value=12.0), Value(value=10.0)) == ("\u22122", False)
    assert change(Value.of(Rate(90, 100)), Value.of(Rate(88, 100)))[1]
    assert not change(Value.of(Rate(900, 1000)), Value.of(Rate(800, 1000)))[1]


def test_markdown_and_terminal_say_the_same_numbers(full):
    plain, terminal = to_markdown(full), printed(full)
    for row in (full["before"], full["after"], *full["baselines"]):
        for name in ("accuracy", "attack success", "bonafide accuracy"):
            value = row[name]
            for text in (plain, terminal):
                assert f"{100 * value['value']:.1f}" in text
                assert f"{100 * value['low']:.1f}\u2013{100 * value['high']:.1f}" in text
            assert (
                f"{value['hits']:,} of {value['n']:,}" in plain
                and f"{value['hits']:,}/{value['n']:,}" in terminal
            )
    assert max(map(len, terminal.splitlines())) <= 80


def test_the_order_of_the_page(full, page):
    reader = Reader(page)
    headings = [tag for tag, _ in reader.tags if tag in ("h1", "h2", "h3")]
    assert headings[:2] == ["h1", "h2"] and headings.count("h1") == 1
    parts = [
        '<p class="decision',
        full["verdict"],
        "What it cost",
        "Not known",
        "Before and after",
        "Images whose answers changed",
        "The oddest trigger",
        "Along the path",
        "The chosen point",
        "Per class",
        "Against other defenses",
        "Before any work",
        "What was trained",
    ]
    parts.insert(-2, "How it was made")
    parts.append("What this does not prove</h2>")
    places = [page.index(part) for part in parts]
    assert places == sorted(places)
    captions = sum(tag == "caption" for tag, _ in reader.tags)
    assert captions == sum(tag == "table" for tag, _ in reader.tags) > 3
    pictures = [a for tag, a in reader.tags if tag == "svg" and a.get("aria-hidden") != "true"]
    assert len(pictures) == 4 and all(a["role"] == "img" and a["aria-label"] for a in pictures)


def test_metrics_of_other_names_are_shown_too(full, quick):
    for part in (full["before"], full["after"]):
        part["robust accuracy"] = as_record(Rate(321, 1000))
    full["path"]["values"]["robust accuracy"] = [as_record(Rate(321, 1000))] * 11
    VALIDATOR.validate(full)
    text = seen(full)
    assert (
        "Robust accuracy" in text and "32.1 %" in text and "not measured" in text
    )  # the baselines have none


# ── absent parts ──


@pytest.mark.parametrize(
    ("trigger", "evaluation", "baselines", "confident"), [*product([True, False], repeat=4)]
)
def test_every_combination_of_absent_parts(full, quick, trigger, evaluation, baselines, confident):
    record = variant(
        full,
        trigger=trigger,
        evaluation=evaluation,
        baselines=baselines,
        confident=confident,
        count=2,
    )
    VALIDATOR.validate(record)
    text = seen(record)
    assert ("No trigger was given, so attack success" in text) is not trigger
    assert ("No evaluation data were given" in text) is not evaluation
    assert ("No other defense was run" in text) is not baselines
    assert ("do not support this choice" in text) is not confident
    assert ("do not support this choice" in to_markdown(record)) is not confident
    assert ("Images whose answers changed" in text) is baselines
    assert ("What was trained" in text) is baselines
    assert ("By queries alone" in text) is trigger
    assert ("Attack success rate" in text) is trigger
    assert ("Clean accuracy" in text) is evaluation
    assert record["verdict"] in text and "t = 0.4" in text
    assert printed(record)


@pytest.mark.parametrize("count", [1, 20, 21, 1000])
def test_many_classes_are_cut_to_the_worst_and_it_is_said(full, quick, count):
    record = variant(full, names=[f"class-{i}-" for i in range(count)])
    worst = min(v["value"] for v in record["after"]["per_class"].values())
    text = seen(record)
    assert len(set(re.findall(r"class-\d+-", text))) == min(count, 20)
    assert (f"The 20 least accurate of {count:,} classes" in text) is (count > 20)
    assert f"{100 * worst:.1f} %" in text


def test_no_classes_no_table(full, quick):
    for part in ("before", "after"):
        del full[part]["per_class"]
    VALIDATOR.validate(full)
    assert "Per class" not in seen(full)


@pytest.mark.parametrize("count", [2, 101])
def test_few_and_many_points(full, count):
    record = variant(
        full, count=count, trigger=count > 2, evaluation=count > 2, baselines=count > 2
    )
    VALIDATOR.validate(record)
    assert f"The {count} points in numbers" in seen(record)


def test_values_without_intervals_or_not_finite(full):
    full["after"]["per_class"] = {"a": {"value": 1.0}, "b": {"value": None}}
    full["before"]["per_class"] = {}
    full["after"]["attack success"] = {"value": math.nan}
    full["path"]["values"]["loss"] = [{"value": math.nan}] * 11
    text = seen(full)
    assert "not finite" in text and "not measured" in text
    VALIDATOR.validate(Report.read(full).record())


# ── hostile names ──


def test_hostile_names_are_text(full):
    page = to_html(hostile(full))
    reader = Reader(page)
    assert "<script" not in page and "<!--" not in page
    assert not {tag for tag, _ in reader.tags} & {
        "script",
        "iframe",
        "link",
        "object",
        "base",
        "form",
    }
    assert not [name for _, attrs in reader.tags for name in attrs if name.startswith("on")]
    shown = re.sub(r"\s+", " ", HOSTILE)
    assert html.escape(shown) not in reader.text and reader.text.count(shown) > 20
    assert "$x^2$" in page[page.index('<svg class="wide') :]  # no formula in a figure either


def test_hostile_names_are_text_in_a_terminal_and_in_markdown(full):
    record = hostile(full)
    record["title"] = record["baselines"][0]["name"] = "[bold]x[/bold] [/]"
    assert "[bold]x[/bold] [/]" in re.sub(r"\s+", " ", printed(record, width=300))
    plain = to_markdown(hostile(full))
    assert is_plain(plain) and "\\[link\\]" in plain
    rows = [line for line in plain.splitlines() if line.startswith("| ")]
    assert (
        len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
    )  # as many cells in each row


def test_names_that_no_encoding_holds(full, tmp_path, quick):
    full["provenance"]["checkpoint"]["path"] = "caf\udce9.safetensors"
    data, page = write_report(full, tmp_path)
    assert "caf?.safetensors" in page.read_text() and "caf?.safetensors" in data.read_text()


# ── one page that needs nothing else ──


def test_nothing_is_asked_of_any_network(page):
    reader = Reader(page)
    for tag, attrs in reader.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base")
        for name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
            held = "data:image/png;base64," if tag == "img" else "#"
            assert attrs.get(name, held).startswith(held), (tag, attrs)
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", page)
    policy = next(
        a["content"] for _, a in reader.tags if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_identifiers_are_unique_and_references_lead_somewhere(page):
    reader = Reader(page)
    names = [attrs["id"] for _, attrs in reader.tags if "id" in attrs]
    assert len(names) == len(set(names))
    wanted = {a[n] for _, a in reader.tags for n in ("aria-labelledby",) if n in a}
    wanted |= {a["href"][1:] for _, a in reader.tags if "href" in a} | set(
        re.findall(r"url\(#([^)]+)\)", page)
    )
    assert wanted <= set(names)


def test_the_page_is_small(page):
    assert len(page) < 200_000


def test_a_landscape_is_shown_where_there_is_one(quick):
    record = surrounded(example())
    VALIDATOR.validate(record)
    text = seen(record)
    assert "Robustness along the path" in text and "Robustness along the path" not in seen(
        example()
    )
    assert all(caveat in text for caveat in record["landscape"]["caveats"])
    assert "λ_max" in text and "‖g‖₁ and λ_max" in text
    record["landscape"]["correlations"], record["landscape"]["explained"] = [], {}
    assert "Pearson" not in seen(record)


def test_a_value_is_written_by_its_unit_and_not_by_its_name(full, quick):
    """A sharpness of 0.568 was reported as 56.8 %."""
    assert format_value(0.568).main == "0.568"
    assert format_value(Quantity(0.568, "share")).main.replace("\u00a0", " ") == "56.8 %"
    assert format_value(Mean(0.3, 9, 0.1, unit="nats")).main == "0.300"
    for part in (full["before"], full["after"]):
        part["sharpness"] = as_record(0.568)
    text = seen(full)
    assert "Sharpness" in text and "0.568" in text and "56.8 %" not in text
    assert "0.568" in to_markdown(full) and "0.568" in printed(full, width=120)


def test_a_straight_path_claims_no_training(full, quick):
    """The default with few samples; the page said: bends 0, steps 0, learning rate 0."""
    kind = "averaged repairs: a point on a curve (t = 0.2) and a fine-tuned copy"
    full["provenance"]["other"] = {"kind": kind}
    full["curve"].update(bends=0, steps=0, lr=0.0, batch_size=0, losses=[], endpoint_gradients=600)
    full["curve"]["seed"] = 0
    full["choice"].update(t=1.0, coefficients=[0.0, 1.0])
    text = seen(full)
    assert "a straight line between the two networks; nothing on it was trained" in text
    assert "gradient evaluations for the second endpoint 600" in text
    assert not re.search(r"\b(bends|steps|learning rate|batch size) 0\b", text)
    assert "0.0 % as received" not in text and "0.0 % as received" not in to_markdown(full)
    assert f"This is the network at t = 1 itself, not a mixture: {kind}" in text


def test_the_name_of_an_end_is_its_first_phrase(full):
    for kind, name in (
        ("given", "second network"),
        ("averaged repairs: a point on a curve (t = 0.2) and more", "averaged repairs"),
        ("permuted copy, for the mean of two cost too much", "permuted copy"),
        ("FineTune(steps=2)", "FineTune"),
    ):
        full["provenance"]["other"] = {"kind": kind}
        assert end_names(Report.read(full)) == ("as received", name)


def test_the_barrier_comes_with_its_conclusion():
    assert "there is no barrier" in barrier_in_words(0.0) and "warning" in barrier_in_words(0.0)
    assert "there is a barrier" in barrier_in_words(1.2) and "1.200" in barrier_in_words(1.2)


def test_our_own_bugs_stay_bugs(full, monkeypatch):
    """A page that cannot be made of a valid record is no fault of the record."""

    def broken(report):
        raise KeyError("a bug")

    monkeypatch.setattr("isthmus.evidence.page.curve_facts", broken)
    with pytest.raises(KeyError, match="a bug"):
        to_html(full)


def test_two_lines_of_python_make_the_page(tmp_path):
    """From a repair in Python to the page, without the command line."""
    samples = load_data("digits:test")
    net = small_cnn(channels=1, width=4)
    fit(net, samples, steps=150, lr=0.1, seed=0)
    repaired = repair(net, samples[:150], points=3, steps=4, bends=1)

    report = evidence(repaired, net, Judge(samples[150:], Patch(size=2), 1), queries=9)
    data, page = write_report(report, tmp_path)

    VALIDATOR.validate(json.loads(data.read_text()))
    decision, _, outcome = report.verdict.partition(": ")
    shown = html.unescape(page.read_text())
    assert decision.upper() in shown and outcome[1:] in shown
    assert report.decision.decision == decision.lower()  # which one, four steps leave to the CPU
    assert report.preflight.findings and report.trainings and report.permanence.queries.queries == 9
    names = [part.name for part in report.permanence.compressed]
    assert names[0] == "recalibration alone"
    assert names[-2:] == ["rounding to 8 bits", "rounding to 4 bits"]
    assert len(names) == 4 or any("pruning by 90 % was not run" in line for line in report.limits)
    eight = report.permanence.compressed[-2].repaired.measures
    change = eight["accuracy"].value - report.after.measures["accuracy"].value
    assert abs(change) < 0.1 and "attack success" in eight
    assert report.after.measures.keys() >= {"recovery accuracy", "confidence", "calibration error"}
    assert decide(report) == report.decision
    assert read_report(data).record() == report.record()
    assert report.provenance.other.kind == repaired.second
    names = ["bonafide, in training", "bonafide, for the choice of t", "evaluation"]
    assert list(report.provenance.data) == names
    assert report.provenance.data[names[0]].n + report.provenance.data[names[1]].n == 150


def test_the_last_lines_open_with_the_decision_and_end_with_a_command(full):
    lines = verdict_lines(Report.read(full))
    assert lines[0].startswith("USE: ") and full["verdict"] in lines[0]
    names = [line.split(":")[0].strip() for line in lines[1:]]
    assert names[:2] == ["why", "cost"] and names[-2:] == ["not known", "next"]
    assert "isthmus detect fit" in lines[-1]
    plain = to_markdown(full)
    assert all(name in plain for name in ("- why", "- cost", "- next"))
    assert "| Gradients, time |" in plain  # which is what the column holds
    assert table(Report.read(full)).columns[-1].header.plain == "Gradients, time"


def test_four_measures_fit_a_terminal_without_the_samples_that_chose(full):
    for part in (full["before"], full["after"]):
        part["recovery accuracy"] = as_record(Rate(800, 900))
    text = printed(full)
    assert max(map(len, text.splitlines())) <= 80
    assert "Recovery" in text and "Bonafide" not in text and "Bonafide" in to_markdown(full)
