"""Measurements along a curve: against naive twins, and the cache that lets them go on."""

import json

import pytest
import torch
from torch import nn

from isthmus import Bezier, Data, recalibrate
from isthmus.curves import network_at
from isthmus.metrics import Accuracy, MeanLoss, Path, Rate, evaluate_path, grid, measure
from isthmus.types import BadInput

pytestmark = pytest.mark.numeric


@pytest.fixture
def data():
    g = torch.Generator().manual_seed(0)
    return Data(torch.rand(40, 1, 4, 4, generator=g), torch.arange(40) % 3, 3)


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    ).eval()


@pytest.fixture
def curve():
    return Bezier(network(0), network(1))


def test_every_point_is_the_exported_recalibrated_network(curve, data):
    held, metrics = data[:20], {"accuracy": Accuracy(data[20:]), "loss": MeanLoss(data[20:])}
    path = evaluate_path(curve, metrics, 5, recalibrate_on=held)
    for t, accuracy, loss in zip(path.t, path["accuracy"], path["loss"], strict=True):
        net = network_at(curve, t, held)
        assert {"accuracy": accuracy, "loss": loss} == measure(net, metrics)
    assert measure(network(0), metrics)["loss"] == path["loss"][0]


def test_ends_may_be_recalibrated_too(curve, data):
    metrics = {"loss": MeanLoss(data)}
    own, anew = (
        evaluate_path(curve, metrics, 3, recalibrate_on=data, ends=e)
        for e in ("own", "recalibrated")
    )
    for t, loss in zip(anew.t, anew["loss"], strict=True):
        assert loss == MeanLoss(data)(recalibrate(curve.export(t), data))
    assert own["loss"][1] != anew["loss"][1] and own["loss"][0] != anew["loss"][0]
    assert "keep their own" in own.recalibrated_on and data.sha256[:16] in own.recalibrated_on


def test_distance_and_length_are_those_of_the_weights(curve, data):
    path = evaluate_path(curve, {}, 3, recalibrate_on=data)
    flat = [torch.cat([p.flatten() for p in curve.weights(t).values()]) for t in path.t]
    assert path.distance == pytest.approx([(f - flat[0]).norm().item() for f in flat], rel=1e-5)
    assert path.length == pytest.approx(
        path.distance[-1], rel=1e-5
    )  # an untrained curve is straight


class Counting:
    """A metric that counts how often it is asked."""

    asked = 0

    def __call__(self, model):
        type(self).asked += 1
        return 0.5


def test_points_are_kept_and_not_computed_again(curve, data, tmp_path):
    Counting.asked = 0
    first = evaluate_path(curve, {"m": Counting()}, 5, recalibrate_on=data, folder=tmp_path)
    assert Counting.asked == 5
    sorted(tmp_path.iterdir())[2].unlink()  # as if killed before the third point
    assert evaluate_path(curve, {"m": Counting()}, 5, recalibrate_on=data, folder=tmp_path) == first
    assert Counting.asked == 6


def test_a_cache_never_answers_for_another_curve_or_other_data(curve, data, tmp_path):
    Counting.asked = 0
    with torch.no_grad():
        evaluate_path(curve, {"m": Counting()}, 3, recalibrate_on=data, folder=tmp_path)
        curve.bends += 0.1
        evaluate_path(curve, {"m": Counting()}, 3, recalibrate_on=data, folder=tmp_path)
    evaluate_path(curve, {"m": Counting()}, 3, recalibrate_on=data[:30], folder=tmp_path)
    assert Counting.asked == 9


@pytest.mark.parametrize(
    "values, drop, barrier",
    [
        ((1.0, 3.0, 2.0), False, 1.5),
        ((1.0, 1.0, 2.0), False, 0.0),
        ((0.9, 0.5, 0.7), True, 0.3),
        ((0.9, 0.9, 0.7), True, 0.0),
    ],
)
def test_barrier_is_the_excess_over_the_line_between_the_ends(values, drop, barrier):
    path = Path((0.0, 0.5, 1.0), (0.0, 1.0, 2.0), {"m": values}, 2.0, "nothing")
    assert path.barrier("m", drop=drop) == pytest.approx(barrier)


def test_mean_is_over_t_not_over_points():
    path = Path((0.0, 0.1, 1.0), (0.0,) * 3, {"m": (0.0, 1.0, 1.0)}, 1.0, "nothing")
    assert path.mean("m") == pytest.approx(0.05 + 0.9)


def test_a_path_survives_json(curve, data):
    path = evaluate_path(
        curve, {"accuracy": Accuracy(data), "loss": MeanLoss(data)}, 3, recalibrate_on=data
    )
    again = Path.from_record(json.loads(json.dumps(path.record())))
    assert again == path
    assert isinstance(again["accuracy"][1], Rate) and again["loss"][1].low == path["loss"][1].low
    assert again.at(0.5) == path.at(0.5)


@pytest.mark.parametrize("t", [1, 0, [], [0.5, 1.2], [-0.1]])
def test_impossible_t_are_refused(t):
    with pytest.raises(BadInput):
        grid(t)


def test_what_was_not_measured_is_named(curve, data):
    path = evaluate_path(curve, {"loss": MeanLoss(data)}, 3, recalibrate_on=data)
    with pytest.raises(BadInput, match=r"'accuracy'.*'loss'"):
        path["accuracy"]
    with pytest.raises(BadInput, match=r"0\.3"):
        path.at(0.3)
