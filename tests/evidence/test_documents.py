"""The records of certificates, detectors and compressions: what is read, refused and drawn."""

import copy
import itertools
import re
from pathlib import Path

import pytest
import torch
from jsonschema import Draft202012Validator
from markupsafe import Markup
from support.documents import CERTIFICATES, COMPRESSION, DETECTION, RECORDS
from support.networks import data, network
from torch.nn.utils import parametrize

import isthmus
from isthmus.compression import prune, quantize
from isthmus.evidence import (
    compression,
    figures,
    network_provenance,
    read_written,
    to_html,
    write_report,
)
from isthmus.evidence import schema as schemas
from isthmus.evidence.compression_report import _times
from isthmus.evidence.record import Value
from isthmus.evidence.text import compression_table
from isthmus.metrics.area import Area
from isthmus.metrics.values import Rate
from isthmus.models import save_checkpoint
from isthmus.runs import read_json
from isthmus.types import BadInput


@pytest.mark.parametrize("kind", RECORDS)
def test_a_record_is_read_written_and_read_again(kind, tmp_path):
    record = RECORDS[kind]
    document = read_written(record)
    assert document.record() == record and read_written(document) is document
    data, page = write_report(record, tmp_path)
    assert read_written(read_json(data)) == document
    text = page.read_text()
    assert text == to_html(document)
    assert text.count("<svg class=") == (2 if kind in ("certificate", "detection", "health") else 0)
    assert 64 * "a" in text and "<b>net" not in text  # names are text, whatever they contain


@pytest.mark.parametrize("kind", schemas.DOCUMENTS)
def test_the_published_schemas_are_those_of_the_types(kind):
    published = schemas.schema(kind)
    assert published == schemas.generate(kind), "run python -m isthmus.evidence.schema"
    Draft202012Validator.check_schema(published)
    assert published["$id"] == f"urn:isthmus:{kind}:1"


@pytest.mark.parametrize("kind", RECORDS)
def test_a_record_satisfies_its_schema(kind):
    record = RECORDS[kind]
    name = record["schema"].removeprefix("isthmus-").removesuffix("/1")
    Draft202012Validator(schemas.schema(name)).validate(record)


def test_the_page_of_a_compression_says_what_stays_and_what_it_costs():
    text = " ".join(to_html(read_written(COMPRESSION)).split())
    assert "<h1>The file is 4.0 times smaller" in text
    for words in ("4,096", "1,024", "0.25&nbsp;ms", "12 of 48", "85.0 %", "&lt;i&gt;fc", "25.0 %"):
        assert words.replace(" %", "\u00a0%") in text or words in text, words


def test_the_page_of_a_quantized_network_says_how_it_was_trained():
    text = to_html(read_written(RECORDS["quantized"]))
    for words in ("Training(steps=40, lr=0.1)", "gradients by the weights", "inner"):
        assert words in text, words


@pytest.mark.parametrize("absent", [("parameters",), ("nonzero parameters",), ()])
def test_what_a_record_does_not_count_is_no_row(absent):
    made = copy.deepcopy(COMPRESSION)
    known = {"parameters": 4321, "nonzero parameters": 1234}
    for side in ("before", "after"):
        made[side] |= {name: None if name in absent else n for name, n in known.items()}
    text = to_html(read_written(made))
    for name, shown in (("parameters", "4,321"), ("nonzero parameters", "1,234")):
        assert (shown in text) is (name not in absent)


def _places(part, at=()):
    """Every place in a record, those within others after them; of a list the first, and its like
    are taken to be alike.
    """
    inside = part.items() if isinstance(part, dict) else list(enumerate(part))[:1]
    for key, value in inside:
        yield (*at, key)
        if isinstance(value, dict | list):
            yield from _places(value, (*at, key))


def _without(record, at, instead):
    """The record with another value in one place; with none at all for `...`."""
    made = copy.deepcopy(record)
    part = made
    for key in at[:-1]:
        part = part[key]
    part[at[-1]] = instead
    if instead is ...:
        del part[at[-1]]
    return made


@pytest.mark.parametrize("kind", RECORDS)
def test_what_a_record_may_lack_has_a_page_without_it(kind, monkeypatch):
    """Every entry that may be absent, null or empty, in turn; figures are drawn, and not written
    out.
    """

    def drawn(draw, *_):
        draw()
        return Markup("")

    monkeypatch.setattr("isthmus.evidence.page._twice", drawn)
    seen = to_html(read_written(RECORDS[kind])).count("None")
    for at in _places(RECORDS[kind]):
        for instead in (..., None, [], {}):
            try:
                document = read_written(_without(RECORDS[kind], at, instead))
            except BadInput:
                continue  # it has to be there
            assert to_html(document).count("None") <= seen, (at, instead)


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("name", ["loss", "robust accuracy"])
def test_what_was_measured_on_one_side_alone_says_so(side, name):
    made = copy.deepcopy(COMPRESSION)
    for each in ("before", "after"):
        made[each]["metrics"].pop(name, None)
    made[side]["metrics"][name] = {"value": 0.321, "unit": "nats"}
    report = read_written(made)
    (cells,) = [pair for which, *pair in report.measures if which == name]
    assert [value is None for value in cells] == [side == "after", side == "before"]
    assert "not measured" in to_html(report) and "0.321" in to_html(report)
    table = compression_table(report)
    assert sum("not measured" in cell for column in table.columns for cell in column.cells) == 1


def test_a_record_of_before_training_and_choice_were_in_it_is_read():
    old = copy.deepcopy(RECORDS["quantized"])
    for name in ("training", "choice"):
        del old["compressed"][name]
    assert read_written(old).record() == old


@pytest.mark.parametrize(("after", "meet"), [((0.2, 0.3), True), ((0.31, 0.4), False)])
def test_a_difference_in_time_within_what_was_seen_is_not_called_one(after, meet):
    made = copy.deepcopy(COMPRESSION)
    made["before"] |= {"milliseconds": 0.25, "milliseconds quartiles": [0.2, 0.3]}
    made["after"] |= {"milliseconds": 0.35, "milliseconds quartiles": list(after)}
    report = read_written(made)
    says = "no difference is shown"
    caption = compression_table(report).caption
    for text in (to_html(report), caption):
        assert (says in text) is meet and "median and quartiles" in text
    assert "0.25 (0.2 to 0.3)" in to_html(report)
    assert "median and quartiles" not in to_html(read_written(COMPRESSION))  # an older record


def test_both_networks_are_timed_in_turn(monkeypatch):
    """What slows the machine down slows both of them, and the first passes are left out."""
    clock = itertools.count(1.0)

    def taken(work, device):
        work()
        return next(clock)

    monkeypatch.setattr("isthmus.evidence.compression_report.seconds_of", taken)
    one, other = _times(network("batchnorm"), network("batchnorm"), data(2), rounds=4)
    assert one == [4000.0, 5000.0, 8000.0, 9000.0] and other == [3000.0, 6000.0, 7000.0, 10000.0]


def test_a_training_that_never_was_is_not_described():
    made = copy.deepcopy(COMPRESSION)
    assert "cross_entropy" in to_html(read_written(made))
    made["compressed"] |= {"gradients": 0, "seconds": 0.0}
    page = to_html(read_written(made))
    assert "nothing was trained" in page
    assert "cross_entropy" not in page and "gradients" not in page


def test_what_is_measured_of_a_compression_has_ordinary_weights(tmp_path):
    """As it is delivered: what holds weights to a mask or a grid takes time at each pass."""
    seen = []

    def metric(model):
        seen.append(any(parametrize.is_parametrized(part) for part in model.modules()))
        return Rate(1, 2)

    torch.manual_seed(0)
    net, samples = network("batchnorm"), data(40)
    origin = network_provenance(0, {"clean": samples}, save_checkpoint(net, tmp_path / "net.st"))
    for small in (quantize(net, samples, 8), prune(net, samples, 0.5)):
        compression(
            *(net, small, network("batchnorm"), samples, {"accuracy": metric}, tmp_path),
            network="net",
            provenance=origin,
        )
    assert len(seen) == 4 and not any(seen)


@pytest.mark.parametrize(
    ("record", "at", "value"),
    [
        (CERTIFICATES, ("rows",), []),
        (CERTIFICATES, ("rows", 0, "certified"), 0.5),
        (CERTIFICATES, ("rows", 0, "eps"), -0.1),
        (CERTIFICATES, ("provenance", "checkpoint", "sha256"), "abc"),
        (CERTIFICATES, ("network",), "net.pt"),
        (DETECTION, ("detector", "threshold"), None),
        (DETECTION, ("detector", "threshold", "low"), 1.5),
        (DETECTION, ("evaluations", 0, "rows", 1, "quartiles"), [0.0]),
        (COMPRESSION, ("before", "metrics"), {}),
        (COMPRESSION, ("after", "bytes"), 0),
        (COMPRESSION, ("compressed", "prune", "density"), 1.5),
    ],
)
def test_a_malformed_record_is_refused_with_its_place(record, at, value):
    broken = copy.deepcopy(record)
    part = broken
    for key in at[:-1]:
        part = part if key == "prune" else part[key]  # the kind of a part stands in its place
    part[at[-1]] = value
    place = re.escape(".".join(map(str, at)))
    with pytest.raises(BadInput, match=f"{place}.*satisfies {record['schema']}"):
        read_written(broken)


@pytest.mark.parametrize("record", [{}, [], {"kind": "compression"}, {"schema": "isthmus-x/1"}])
def test_a_record_of_another_kind_is_refused_with_the_kinds_there_are(record):
    with pytest.raises(BadInput) as refusal:
        read_written(record)
    words = str(refusal.value)
    for kind in ("report", "certificate", "detection", "compression"):
        assert f"isthmus-{kind}/1" in words
    assert "repair, certify, detect, prune or quantize" in words


def test_the_worst_row_is_never_that_of_noise():
    part = read_written(DETECTION).evaluations[0]
    assert part.worst.weight == 10.0
    assert [row.weight for row in part.strongest().values()] == [None, None, 10.0]


def test_figures_are_drawn_in_the_order_of_eps():
    figure = figures.certified(read_written(CERTIFICATES))
    for line, values in zip(figure.axes[0].lines, ([0.7, 0.6], [0.8, 0.8]), strict=True):
        assert list(line.get_xdata()) == [0.01, 0.1] and list(line.get_ydata()) == values
    areas, shares = figures.detected(read_written(DETECTION)).axes
    assert [list(line.get_ydata()) for line in areas.lines] == [[0.75]] * 3
    assert [list(line.get_ydata()) for line in shares.lines] == [[0.1], [0.9], [0.4]]


def test_a_detector_that_was_not_evaluated_has_a_page_and_no_figure():
    fitted = read_written({**DETECTION, "evaluations": []})
    assert "<svg class=" not in to_html(fitted)
    with pytest.raises(BadInput, match="without evaluations"):
        figures.detected(fitted)


def test_an_area_is_a_value_of_a_record():
    area = Area(0.75, 12, 34)
    value = Value.of(area)
    assert (value.clean, value.suspicious) == (12, 34)
    assert value.interval == (area.low, area.high)


def test_pages_share_one_environment():
    files = Path(isthmus.__file__).parent.rglob("*.py")
    makers = [file.name for file in files if "PackageLoader(" in file.read_text(encoding="utf-8")]
    assert makers == ["rendering.py"]
