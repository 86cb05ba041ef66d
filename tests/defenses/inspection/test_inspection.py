"""Inspection: p-values as ranks, references, and a backdoor that is found on the digits."""

import json
from math import inf, log, sqrt
from statistics import median

import numpy as np
import pytest
from support.networks import data, network
from support.refusals import refused
from support.searched import BONAFIDE, SEED, TARGET, digits_network, inspected, inverted

from isthmus import Data, load_data
from isthmus.defenses import (
    References,
    anomaly_index,
    inspect,
    outlook,
    p_value,
    read_references,
)
from isthmus.defenses.inspection.inspect import references, statistics
from isthmus.models import model_factory


def test_a_backdoored_network_is_suspicious_and_clean_ones_mostly_are_not():
    """One clean network in twenty is called suspicious, whichever it is on this CPU: two of three
    may not be, which happens once in 140 times.
    """
    found = inspected(True)
    assert (found.decision, found.suspect) == ("suspicious", TARGET), found.reason
    assert max(range(10), key=lambda c: found.index["patch"][c]) == TARGET
    assert found.p <= 0.05
    clean = [inspected(False, SEED + k) for k in range(3)]
    assert sum(each.decision == "not suspicious" for each in clean) >= 2
    assert all((each.p > 0.05) == (each.decision == "not suspicious") for each in clean)
    assert all(each.statistics["patch"] < found.statistics["patch"] for each in clean)


def test_what_the_references_cannot_tell_is_not_told():
    test, net = load_data("digits:test")[BONAFIDE], digits_network(True)
    quick = {"steps": 3, "batch_size": 8}
    assert (
        inspect(net, test, **quick).decision == "cannot tell"
    )  # other settings than those of the package
    few = references([net, net], test, name="two of a kind", **quick)
    found = inspect(net, test, clean=few, **quick)
    assert (found.decision, found.p) == ("cannot tell", 1.0)
    assert "two of a kind" in found.reason
    assert few.values.keys() == found.statistics.keys()
    assert {name: values[1] for name, values in few.values.items()} == found.statistics
    assert inspect(net, test, clean=few, level=0.4, **quick).decision == "not suspicious"
    assert inspect(net, test, clean=few, kinds=("patch",), **quick).p is None, "other statistics"


def test_what_an_inspection_can_say_is_known_before_it_searches():
    test = load_data("digits:test")[BONAFIDE]
    net = digits_network(True)
    first = outlook(net, test)
    assert first.judges and "59 clean networks (small_cnn of width 8" in first.reason
    assert first.caveats == () and first.gradients == 120 * 16 * 11 * (3 + 1)
    wider = outlook(model_factory("isthmus.models:small_cnn,channels=1,width=9")(), test)
    assert wider.judges and "4,370 parameters and this network" in wider.caveats[0]
    quick = {"steps": 3, "batch_size": 8}
    assert not outlook(net, test, **quick).judges
    few = references([net, net], test, name="two of a kind", **quick)
    assert few.parameters == 4370 and References(**few.record()) == few
    told = outlook(net, test, clean=few, **quick)
    assert not told.judges and "two of a kind" in told.reason
    assert outlook(net, test, clean=few, level=0.4, **quick).judges
    assert not outlook(net, test, clean=few, kinds=("patch",), **quick).judges


# ---- laws over the zoo


@pytest.mark.parametrize("seed", range(3))
def test_the_anomaly_index_is_that_of_neural_cleanse(seed):
    sizes = np.random.default_rng(seed).exponential(10, 7 + seed).tolist()
    middle = median(sizes)
    mad = 1.4826 * median(abs(size - middle) for size in sizes)
    assert anomaly_index(sizes) == pytest.approx([(middle - size) / mad for size in sizes])
    assert anomaly_index([4.0] * 5) == (0.0,) * 5


def test_statistics_say_how_many_times_smaller_the_oddest_is():
    found = [inverted(log(size / 64), target) for target, size in enumerate([32, 16, 2, 16])]
    assert statistics([*found, inverted(log(8 / 64), "any")]) == pytest.approx(
        {"patch": log(8), "patch, any": log(2)}
    )


def test_the_p_value_is_the_rank_among_clean_networks():
    rows = np.random.default_rng(3).normal(size=(9, 2)) * [1, 50] + [0, 7]
    known = References("made up", {}, {"a": rows[1:, 0].tolist(), "b": rows[1:, 1].tolist()})
    for value in ((3.0, 7.0), (0.0, 200.0), (0.5, 20.0), (-3.0, -200.0)):
        each = [value, *rows[1:].tolist()]
        columns = list(zip(*each, strict=True))
        means = [sum(column) / 9 for column in columns]
        deviations = [
            sqrt(sum((v - m) ** 2 for v in c) / 9) for c, m in zip(columns, means, strict=True)
        ]
        oddness = [
            max((v - m) / d for v, m, d in zip(row, means, deviations, strict=True)) for row in each
        ]
        assert (
            p_value({"a": value[0], "b": value[1]}, known)
            == sum(o >= oddness[0] for o in oddness) / 9
        )
    only = References("made up", {}, {"a": [0.0, 1.0, 2.0, 3.0]})
    assert [p_value({"a": value}, only) for value in (4.0, 2.5, 1.0, -1.0)] == [
        1 / 5,
        2 / 5,
        4 / 5,
        1.0,
    ]


@pytest.mark.parametrize("level", [0.05, 0.2, 0.5])
def test_clean_networks_are_called_suspicious_no_more_often_than_said(level):
    """Whatever the distribution: here a heavy tail, and statistics that depend on each other."""
    draws, n = np.random.default_rng(0), 2000
    values = draws.standard_cauchy((n, 20, 1)) + draws.exponential(3, (n, 20, 2)) ** 2
    called = 0
    for rows in values:
        known = References("drawn", {}, {"a": rows[1:, 0].tolist(), "b": rows[1:, 1].tolist()})
        called += p_value({"a": rows[0, 0], "b": rows[0, 1]}, known) <= level
    assert called / n == pytest.approx(level, abs=4 * sqrt(level * (1 - level) / n))


def test_references_survive_their_file(tmp_path):
    known = References("made up", {"steps": 3, "image": [1, 8, 8]}, {"a": [0.0, 1.0]})
    file = tmp_path / "references.json"
    file.write_text(json.dumps({"references": [known.record()]}))
    assert read_references(file) == (known,)
    shipped = read_references()
    assert all(len(each) >= 19 for each in shipped)
    assert shipped


# ---- questions along a path


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: inspect(network("linear"), data(8), level=0), ["level 0"]),
        (lambda: inspect(network("linear"), data(8), kinds=()), ["kinds ()"]),
        (lambda: inspect(network("linear"), Data(data(8).x, data(8).y % 2, 2)), ["2 classes"]),
        (lambda: references([], data(8), name="none"), ["no clean networks"]),
        (lambda: anomaly_index([1.0, 2.0]), ["2 sizes"]),
        (lambda: anomaly_index([1.0, 2.0, inf]), ["finite"]),
        (lambda: statistics([inverted(0.0, 0), inverted(0.0, 1)]), ["2 classes"]),
        (lambda: References("x", {}, {"a": [1.0], "b": [1.0, 2.0]}), ["[1, 2]"]),
        (lambda: References("x", {}, {"a": [inf]}), ["finite"]),
        (lambda: p_value({"a": 1.0}, References("x", {}, {"b": [1.0]})), ["['a']", "['b']"]),
    ],
)
def test_what_cannot_be_done_is_refused(call, words):
    refused(call, *words)


def test_a_file_that_holds_no_references_is_refused(tmp_path):
    (tmp_path / "x.json").write_text('{"references": [{"networks": "x"}]}')
    refused(lambda: read_references(tmp_path / "x.json"), "no references")
    entry = {"networks": "x", "settings": {}, "values": {"patch": [0.5, [1]]}}
    (tmp_path / "x.json").write_text(json.dumps({"references": [entry]}))
    refused(lambda: read_references(tmp_path / "x.json"), "no references")
