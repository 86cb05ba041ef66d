"""What is written of a compression, and that nothing is where it is refused."""

import pytest
import torch
from support.breaking import Stopped
from support.refusals import refused
from support.rows import samples
from torch import nn

from isthmus import Accuracy
from isthmus.compression import prune
from isthmus.evidence import compression, provenance
from isthmus.evidence.compression_record import Side
from isthmus.evidence.compression_report import _verdict, _warnings
from isthmus.evidence.record import AnswersPart, Value
from isthmus.metrics import Rate, as_record
from isthmus.models import small_cnn
from isthmus.types import BadInput


def make():
    return small_cnn(3, 1, 4)


def interrupted(model):
    raise KeyboardInterrupt


def fails(model):
    raise BadInput("a network", expected="another", fix="measure nothing")


@pytest.mark.parametrize("place", ["built", "metrics"])
def test_a_compression_that_cannot_be_measured_leaves_no_file(place, tmp_path):
    torch.manual_seed(0)
    net, data = make(), samples()
    metrics = {"accuracy": Accuracy(data)}
    words = {"network": "net", "provenance": {}}
    small = prune(net, data, 0.5)

    def run(built, measured):
        return compression(net, small, built, data, measured, tmp_path, **words)

    if place == "built":
        refused(lambda: run(small_cnn(3, 1, 2), metrics), "compressed.safetensors")
    else:
        refused(lambda: run(make(), metrics | {"failing": fails}), "measure nothing")
    with pytest.raises(KeyboardInterrupt):
        run(make(), metrics | {"failing": interrupted})
    assert not list(tmp_path.iterdir())


def test_the_smaller_network_is_measured_where_the_other_one_is(monkeypatch, tmp_path):
    """A packed file is read on the CPU, which a time on a GPU was compared with."""
    module, places = "isthmus.evidence.compression_report", []

    def times(*networks):
        places.extend(next(net.parameters()).device.type for net in networks[:2])
        raise Stopped

    monkeypatch.setattr(f"{module}._size", lambda *_: 1)
    monkeypatch.setattr(f"{module}._times", times)
    net, metrics = make(), {"accuracy": Accuracy(samples())}
    small = prune(net, samples(), 0.5)
    with pytest.raises(Stopped):
        words = {"network": "net", "provenance": {}}
        compression(net.to("meta"), small, make(), samples(), metrics, tmp_path, **words)
    assert places == ["meta", "meta"]


def side(accuracy, success=None, robust=None, name="accuracy"):
    metrics = {name: as_record(Rate(round(1000 * accuracy), 1000))}
    if robust is not None:
        metrics["robust accuracy"] = as_record(Rate(round(1000 * robust), 1000))
    if success is not None:
        metrics["attack success"] = as_record(Rate(round(1000 * success), 1000))
    cost = {"multiply-adds": 1, "multiply-adds with a nonzero weight": 1, "milliseconds": 1.0}
    return Side.model_validate({"metrics": metrics, "bytes": 100, **cost})


COSTS = "it costs more than 10.0 points of accuracy, beyond doubt."
GUESSES = "as far as 1,000 samples can tell it answers no better than a guess."


@pytest.mark.parametrize(
    ("success", "guesses", "says"),
    [
        ((0.01, 0.02), False, ""),
        ((0.01, 0.9), False, "compression wakes a backdoor."),
        ((0.004, 0.48), False, "compression brings back part of a backdoor."),
        ((0.99, 0.98), False, "it obeys the trigger, as the one before it does."),
        ((0.6, 0.95), False, "it obeys the trigger, as the one before it does."),
        ((0.0, 0.14, 0.468), False, COSTS),  # mistakes of a network that never obeyed
        ((0.0, 0.14, 0.85), False, ""),
        ((0.02, 0.95, 0.44), False, "it obeys the trigger, which the one before it does not."),
        ((0.09, 0.14, 0.89), False, ""),
        ((0.01, 1.0), True, GUESSES),
    ],
)
@pytest.mark.parametrize("name", ["accuracy", "clean accuracy"])
def test_what_forbids_to_use_the_network_is_said_first(success, guesses, says, name):
    had, has, *left = success
    before, after = side(0.9, had, name=name), side(*(left or [0.9]), has, name=name)
    warnings = _warnings(before, after, guesses=guesses)
    whole = f"Do not use the smaller network: {says}"
    assert [warning[: len(whole)] for warning in warnings[:1]] == ([whole] if says else [])
    costs = [warning for warning in warnings if warning.endswith(COSTS)]
    assert len(costs) == (1 if left and left[0] < 0.5 else 0)
    assert len(warnings) == len({*warnings[:1], *costs})
    assert _verdict(before, after, warnings).startswith(whole if says else "The file is")


@pytest.mark.parametrize(
    ("after", "lost", "says"),
    [(0.775, None, False), (0.775, 125, True), (0.79, 110, False), (0.75, None, True)],
)
def test_a_loss_of_more_than_ten_points_beyond_doubt_forbids_to_use_it(after, lost, says):
    """Paired where the answers that changed are counted, which is narrower."""
    answers = None if lost is None else AnswersPart(n=1000, lost=lost, gained=0)
    warnings = _warnings(side(0.9), side(after), guesses=False, answers=answers)
    assert warnings == ([f"Do not use the smaller network: {COSTS}"] if says else [])


@pytest.mark.parametrize(
    ("had", "has", "says"),
    [
        (0, 16, "compression brings back injected errors."),
        (0, 8, "compression brings back part of the injected errors."),
        (16, 15, "it shows the injected errors, as the one before it does."),
        (0, 1, ""),
    ],
)
def test_injected_errors_are_named_and_warned_of(had, has, says):
    before, after = side(0.9), side(0.9)
    before.metrics["injection success"] = Value(**as_record(Rate(had, 16)))
    after.metrics["injection success"] = Value(**as_record(Rate(has, 16)))
    warnings = _warnings(before, after, guesses=False)
    assert warnings == ([f"Do not use the smaller network: {says}"] if says else [])
    assert "injection success from" in _verdict(before, after, warnings)


@pytest.mark.parametrize(
    ("one_class", "n", "says"),
    [
        (True, 1000, "all of one class, of which anybody may guess"),
        (False, 1000, "as far as 1,000 samples can tell"),
        (False, 1, "as far as 1 sample can tell"),
    ],
)
def test_a_guess_says_how_to_tell_it_from_more(one_class, n, says):
    after = side(0.9)
    after.metrics["accuracy"] = Value(**as_record(Rate(n, n)))
    (warning,) = _warnings(side(0.9), after, guesses=True, one_class=one_class)
    assert says in warning and ("measure it on more samples" in warning) is not one_class


def test_the_verdict_says_what_is_left_under_an_attack():
    said = _verdict(side(0.9, robust=0.5), side(0.8, robust=0.4), [])
    assert "robust accuracy from 50.0 % to 40.0 %" in said.replace("\u00a0", " ")


def test_a_network_with_one_answer_to_everything_is_not_to_be_used(tmp_path):
    net, data = make(), samples()
    with torch.no_grad():
        next(layer for layer in net.modules() if isinstance(layer, nn.Linear)).weight.zero_()
    words = {"network": "net", "provenance": provenance(0, {"judged": data})}
    small = prune(make(), data, 0.5)
    small.model.load_state_dict(prune(net, data, 0.5).model.state_dict())
    metrics = {"accuracy": Accuracy(data)}
    record = compression(make(), small, make(), data, metrics, tmp_path, **words)
    assert record.verdict.startswith("Do not use") and len(record.warnings) == 1
