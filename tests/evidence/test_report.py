"""The report: its contract, its numbers, what it does when parts are absent or names are hostile."""

import html
import io
import json
import math
import re
from html.parser import HTMLParser
from itertools import product
from types import SimpleNamespace

import pytest
from jsonschema import Draft202012Validator
from rich.console import Console
from support.records import HOSTILE, example, hostile, surrounded, variant

from isthmus.defenses import Choice
from isthmus.evidence.gather import verdict
from isthmus.evidence.page import to_html, write_report
from isthmus.evidence.record import plain, read_report, schema
from isthmus.evidence.text import table, to_markdown
from isthmus.evidence.words import change
from isthmus.metrics import Rate, as_record
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
    """Leave the figures out, for tests that only read text: drawing them is nearly all of the work."""
    monkeypatch.setattr("isthmus.evidence.page._figures", lambda draw, record, name, words: "")


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
    console.print(table(record))
    return console.export_text()


# ── the contract ──


def test_the_schema_is_one_and_the_example_satisfies_it(full):
    Draft202012Validator.check_schema(schema())
    VALIDATOR.validate(full)


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
    assert read_report(data) == back
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
        "13 min 32 s",
    ):
        assert said in text


def test_the_change_is_after_less_before(full, quick):
    moved = 100 * (full["after"]["accuracy"]["value"] - full["before"]["accuracy"]["value"])
    assert moved < 0 and f"\u2212{abs(moved):.1f} points" in seen(full)
    assert change({"value": 0.5}, {"value": 0.5004}, "accuracy") == ("0.0 points", False)
    assert change({"value": 1.5}, {"value": 2.0}, "loss") == ("+0.500", False)
    assert change(as_record(Rate(90, 100)), as_record(Rate(88, 100)), "accuracy")[1]
    assert not change(as_record(Rate(900, 1000)), as_record(Rate(800, 1000)), "accuracy")[1]


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
        "Before and after",
        "Along the path",
        "The chosen point",
        "Per class",
        "Against other defenses",
    ]
    parts += ["How it was made", "What this does not prove</h2>"]
    places = [page.index(full["verdict"])] + [page.index(part) for part in parts]
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
    assert ("No trigger was given" in text) is not trigger
    assert ("No evaluation data were given" in text) is not evaluation
    assert ("No other defense was run" in text) is not baselines
    assert ("do not support this choice" in text) is not confident
    assert ("do not support this choice" in to_markdown(record)) is not confident
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
    VALIDATOR.validate(plain(full))


# ── hostile names ──


def test_hostile_names_are_text(full):
    page = to_html(hostile(full))
    reader = Reader(page)
    assert "<script" not in page and "<!--" not in page
    assert not {tag for tag, _ in reader.tags} & {
        "script",
        "img",
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
    assert "<script" not in plain.replace("\\<", "") and "\\[link\\]" in plain
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
        assert tag not in ("script", "link", "img", "iframe", "object", "embed", "base")
        for name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
            assert attrs.get(name, "#").startswith("#"), (tag, attrs)
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", page)
    policy = next(
        a["content"] for _, a in reader.tags if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


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


@pytest.mark.parametrize(
    "after, confident, says",
    [
        (
            (1, 100),
            True,
            "Took the network at t = 0.2: attack success 95.0 % before, 1.0 % after; accuracy",
        ),
        ((40, 100), True, "on which the backdoor still works: attack success"),
        ((40, 100), False, "on which the backdoor still works: attack success"),
        (
            (1, 3),
            True,
            "t = 0.2: attack",
        ),  # a third of three images is no more than a tenth beyond doubt
        (None, True, "not measured: no trigger was given"),
        (None, False, "cannot tell which point to trust"),
    ],
)
def test_the_verdict_hides_no_backdoor(after, confident, says):
    found = SimpleNamespace(
        t=Choice(0.2, rule="given", reason="", confident=confident), damaged=False
    )
    before, now = ({"accuracy": as_record(Rate(90, 100))} for _ in range(2))
    if after:
        before["attack success"], now["attack success"] = (
            as_record(Rate(95, 100)),
            as_record(Rate(*after)),
        )
    said = verdict(found, before, now).replace("\u00a0", " ")
    assert says in said and ("still works" in says) == ("still works" in said), said
    assert ("attack success" in said) is bool(
        after
    ) and "accuracy 90.0 % before, 90.0 % after" in said


@pytest.mark.parametrize(
    "left, says",
    [(30, "on which injected errors remain: injection success"), (0, "t = 0.2: injection")],
)
def test_the_verdict_hides_no_injected_error(left, says):
    found = SimpleNamespace(t=Choice(0.2, rule="given", reason="", confident=True))
    before, now = (
        {"accuracy": as_record(Rate(90, 100)), "injection success": as_record(Rate(n, 50))}
        for n in (50, left)
    )
    said = verdict(found, before, now)
    assert says in said and ("remain" in said) is bool(left) and "not measured" not in said, said


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
