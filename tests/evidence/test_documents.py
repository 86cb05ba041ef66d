"""The records of certificates and of detectors: what is read, what is refused, what is drawn."""

import copy
import re
from pathlib import Path

import pytest

import isthmus
from isthmus.evidence import figures, read_written, to_html, write_report
from isthmus.evidence.record import Value
from isthmus.metrics.area import Area
from isthmus.metrics.values import Rate, as_record
from isthmus.runs import read_json
from isthmus.types import BadInput

ORIGIN = {
    **dict.fromkeys(("isthmus", "torch", "python", "numpy", "platform", "time"), "1"),
    "seed": 0,
    "data": {},
    "checkpoint": {"path": "<b>net.pt", "sha256": 64 * "a"},
}
THRESHOLD = {"value": 1.5, "false_positive_rate": 0.05, "low": 0.02, "high": 0.1, "samples": 150}
CERTIFICATES = {
    "schema": "isthmus-certificate/1",
    "title": "Certificates of <b>net.pt",
    "verdict": "At eps 0.1, half of the answers or more are proved right.",
    "provenance": ORIGIN,
    "certifier": "Interval()",
    "attack": "PGD()",
    "accuracy": as_record(Rate(90, 100)),
    "rows": [
        {
            "eps": eps,
            "certified": as_record(Rate(hits, 100)),
            "attacked": as_record(Rate(80, 100)),
            "gap": 0.8 - hits / 100,
            "seconds_per_sample": 0.001,
        }
        for eps, hits in ((0.1, 60), (0.01, 70))
    ],
    "equilibrium_layers": {
        "core": {"gamma": 0.0, "residual": None, "iterations": 5, "converged": False}
    },
    "limits": ["Nothing of other inputs."],
}


def row(inputs, weight, undetected):
    shares = {name: as_record(Rate(5, 10)) for name in ("detected", "wrong")}
    return {
        "inputs": inputs,
        "weight": weight,
        "auroc": as_record(Area(0.75, 10, 10)),
        **shares,
        "undetected": as_record(Rate(undetected, 10)),
        "quartiles": [1.0, 2.0, 3.0],
    }


DETECTION = {
    "schema": "isthmus-detection/1",
    "title": "Detector of pixels",
    "verdict": "At eps 0.1, 40 % of attacked inputs fool network and detector.",
    "provenance": ORIGIN,
    "detector": {
        "score": "lle",
        "neighbors": 10,
        "layers": [],
        "shape": [1, 8, 8],
        "scales": [1.0],
        "network": None,
        "reference": 64 * "b",
        "reference_samples": 450,
        "threshold": THRESHOLD,
    },
    "evaluations": [
        {
            "eps": 0.1,
            "false_positives": as_record(Rate(1, 10)),
            "clean_quartiles": [0.0, 0.5, 1.0],
            "rows": [
                row("attack", None, 1),
                row("noise", None, 9),
                row("detector-aware attack", 1.0, 2),
                row("detector-aware attack", 10.0, 4),
            ],
        }
    ],
    "limits": ["An input that is not flagged need not be clean."],
}


@pytest.mark.parametrize("record", [CERTIFICATES, DETECTION], ids=["certificates", "detection"])
def test_a_record_is_read_written_and_read_again(record, tmp_path):
    document = read_written(record)
    assert document.record() == record and read_written(document) is document
    data, page = write_report(record, tmp_path)
    assert read_written(read_json(data)) == document
    text = page.read_text()
    assert text == to_html(document) and text.count("<svg class=") == 2
    assert 64 * "a" in text and "<b>net" not in text  # names are text, whatever they contain


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
    ],
)
def test_a_malformed_record_is_refused_with_its_place(record, at, value):
    broken = copy.deepcopy(record)
    part = broken
    for key in at[:-1]:
        part = part[key]
    part[at[-1]] = value
    place = re.escape(".".join(map(str, at)))
    with pytest.raises(BadInput, match=f"{place}.*satisfies {record['schema']}"):
        read_written(broken)


@pytest.mark.parametrize("record", [{}, [], {"kind": "compression"}, {"schema": "isthmus-x/1"}])
def test_a_record_of_another_kind_is_refused_with_the_kinds_there_are(record):
    with pytest.raises(BadInput) as refusal:
        read_written(record)
    words = str(refusal.value)
    for kind in ("isthmus-report/1", "isthmus-certificate/1", "isthmus-detection/1"):
        assert kind in words
    assert "repair, certify or detect" in words


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
    assert makers == ["page.py"]
