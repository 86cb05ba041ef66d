"""The landscape of a path: every number against a naive twin, computed once, and told with its
caveats.
"""

import json

import jsonschema
import pytest
import torch
from support.networks import data, pair
from support.refusals import refused

from isthmus import Bezier, evaluate_path, recalibrate
from isthmus.attacks import PGD
from isthmus.data import L2, Linf
from isthmus.evidence import figures, text
from isthmus.evidence.record import Landscape
from isthmus.evidence.schema import schema
from isthmus.metrics import (
    Accuracy,
    MeanLoss,
    Path,
    attacked,
    from_record,
    input_hessian,
    landscape,
    landscape_metrics,
    measure,
)
from isthmus.metrics.landscape import repeated
from isthmus.metrics.names import LANDSCAPE
from isthmus.metrics.robustness import WeightCurvature

pytestmark = pytest.mark.numeric

ATTACK = PGD(Linf(0.05), steps=3, returns="worst")


@pytest.fixture(scope="module")
def measured():
    curve, asked = Bezier(*pair("batchnorm")), data(32)
    metrics = landscape_metrics(asked, ATTACK)
    path = evaluate_path(curve, metrics, 5, recalibrate_on=asked, ends="recalibrated")
    return curve, asked, path


def test_every_number_is_that_of_the_network_at_t(measured):
    curve, asked, path = measured
    net = recalibrate(curve.export(0.25), asked)
    worst = attacked(net, asked, ATTACK)
    around = input_hessian(net, asked.x, asked.y)
    lower, upper = around.bounds(ATTACK.ball)
    naive = {
        "loss": MeanLoss(asked)(net),
        "error": 1 - Accuracy(asked)(net),
        "robustness loss": MeanLoss(worst)(net),
        "evasion success": 1 - Accuracy(worst)(net),
        "lambda_max": around.top.mean(),
        "gradient l1": around.l1.mean(),
        "gradient l2": around.l2.mean(),
        "alignment": around.alignment.mean(),
        "quadratic loss, lower": lower.mean(),
        "quadratic loss, upper": upper.mean(),
    }
    assert path.at(0.25).keys() == naive.keys()
    for name, value in naive.items():
        assert float(path.at(0.25)[name]) == pytest.approx(float(value), rel=1e-5), name
    top = path.at(0.25)["lambda_max"]
    assert top.quartiles == pytest.approx(
        torch.quantile(around.top, torch.tensor([0.25, 0.5, 0.75]).double()).tolist()
    )
    assert (
        from_record(json.loads(json.dumps(path.record()["values"]["lambda_max"][1]))).quartiles
        == top.quartiles
    )


def test_attack_and_derivatives_run_once_for_all_questions(measured, monkeypatch):
    curve, asked, _ = measured
    calls = []

    class Counting(PGD):
        def __call__(self, model, x, y):
            calls.append("attack")
            return super().__call__(model, x, y)

    def counted(*arguments):
        calls.append("hessian")
        return input_hessian(*arguments)

    monkeypatch.setattr("isthmus.metrics.passes.input_hessian", counted)
    measure(
        curve.export(0.5), landscape_metrics(asked, Counting(Linf(0.05), steps=1, returns="worst"))
    )
    assert sorted(calls) == ["attack", "hessian"]


def test_the_record_is_plain_and_of_the_schema(measured):
    part = landscape.record(measured[-1], "PGD")
    json.dumps(part, allow_nan=False)
    contract = schema()
    jsonschema.validate(part, {"$ref": "#/$defs/landscape", "$defs": contract["$defs"]})
    assert [each["second"] for each in part["correlations"]] == list(landscape.AGAINST)
    assert (
        part["explained"]["both"]
        >= max(part["explained"][n] for n in ("gradient l1", "lambda_max")) - 1e-9
    )
    assert part["barriers"]["robustness loss"] == measured[-1].barrier("robustness loss")
    assert len(part["caveats"]) == 6


def test_few_points_are_not_correlated_and_constants_are_null():
    flat = Path((0.0, 0.5, 1.0), (0.0, 1.0, 2.0), dict.fromkeys(LANDSCAPE, (0.5,) * 3), 2.0, "")
    assert landscape.record(flat, "")["correlations"] == []
    five = Path(
        (0.0, 0.2, 0.5, 0.7, 1.0), (0.0,) * 5, dict.fromkeys(LANDSCAPE, (0.5,) * 5), 2.0, ""
    )
    part = landscape.record(five, "")
    assert part["correlations"][0]["pearson"] is None and part["explained"]["both"] is None
    typed = Landscape.read(part)
    assert figures.landscape(typed) and text.landscape_tables(typed)
    refused(lambda: landscape.series(five, "unknown"), "unknown")


def test_independent_paths_are_told_together(measured):
    flat = measured[-1]
    hill = {
        name: tuple(float(x) + height for x, height in zip(values, (0, 1, 2, 1, 0), strict=True))
        for name, values in flat.values.items()
    }
    path = Path(flat.t, flat.distance, hill, 1.0, "")
    higher = {name: tuple(1.5 * x for x in values) for name, values in hill.items()}
    other = Path(path.t, path.distance, higher, 1.0, "")
    found = repeated([path, path, other])
    json.dumps(found, allow_nan=False)
    barrier = found["barriers"]["robustness loss"]
    assert barrier["repeats"] == 3 and barrier["low"] < barrier["value"] < barrier["high"]
    alone = landscape.record(path, "")["correlations"][0]["pearson"]
    assert found["correlations"]["lambda_max"]["pearson"]["value"] == pytest.approx(alone)


def test_an_l2_attack_and_one_without_a_ball(measured):
    asked = measured[1]
    assert "quadratic loss, upper" in landscape_metrics(asked, PGD(L2(0.5), returns="worst"))
    assert "quadratic loss, upper" not in landscape_metrics(asked, lambda model, x, y: x)


def test_the_weights_curvature_is_a_metric_along_the_path(measured):
    curve, asked, _ = measured
    path = evaluate_path(curve, {"sharpness": WeightCurvature(asked)}, 2, recalibrate_on=asked)
    assert all(value > 0 for value in path["sharpness"])


def test_the_figure_draws_what_was_measured(measured):
    part = landscape.record(measured[-1], "PGD")
    figure = figures.landscape(Landscape.read(part))
    lines = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
    assert list(lines["λ_max"].get_ydata()) == [v["value"] for v in part["values"]["lambda_max"]]
    assert len(lines) == 6
    refused(lambda: Landscape.read({**part, "values": {}}), "no loss")
