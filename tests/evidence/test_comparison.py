import copy
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from support.networks import data, network

from isthmus import Accuracy, MeanLoss
from isthmus.defenses import CLP, FineTune, UniversalUnlearning
from isthmus.defenses.unlearning import unlearn
from isthmus.evidence.comparison import compare
from isthmus.evidence.record import Measured, Refused
from isthmus.metrics import as_record
from isthmus.training import Training
from isthmus.types import BadInput


@dataclass(frozen=True)
class Shifted:
    """A defense that adds a number to every weight, and counts how often it was asked."""

    by: float
    asked: list = field(default_factory=list, repr=False)
    gradients: ClassVar[int] = 0

    def __call__(self, tampered, bonafide):
        self.asked.append(len(bonafide))
        net = copy.deepcopy(tampered)
        with torch.no_grad():
            for p in net.parameters():
                p.add_(self.by)
        return net


def refusing(tampered, bonafide):
    raise BadInput("a network", expected="another", fix="choose one")


QUESTIONS = {"accuracy": Accuracy(data(32)), "loss": MeanLoss(data(32))}


def test_a_row_says_what_was_measured_on_the_defenses_own_network():
    net, bonafide = network("linear"), data(16, seed=1)
    rows = compare({"zero": Shifted(0.0), "far": Shifted(0.3)}, net, bonafide, QUESTIONS)
    assert [row.name for row in rows] == ["zero", "far"]
    for row, by in zip(rows, (0.0, 0.3), strict=True):
        moved = Shifted(by)(net, bonafide)
        assert {name: row.record()[name] for name in QUESTIONS} == {
            n: as_record(q(moved)) for n, q in QUESTIONS.items()
        }
    assert rows[0].measures["loss"] != rows[1].measures["loss"]


def test_budget_and_settings_are_told():
    row = compare(
        {"tune": FineTune(Training(steps=3, lr=0.01))}, network("linear"), data(16), QUESTIONS
    )[0]
    assert row.steps == 3 and "0.01" in row.settings and row.seconds > 0


def test_one_that_refuses_does_not_lose_the_others():
    defenses = {"no": refusing, "CLP": CLP(), "NaN": Shifted(float("nan")), "zero": Shifted(0.0)}
    rows = compare(defenses, network("linear"), data(16), QUESTIONS)
    assert [type(row) for row in rows] == [Refused] * 3 + [Measured]
    assert rows[0].refused == "got a network; expected another; choose one"
    assert "BatchNorm" in rows[1].refused and "NaN" in rows[2].refused
    assert "accuracy" in rows[3].measures


def test_kept_rows_are_not_computed_again_unless_anything_differs(tmp_path):
    net, asked = network("linear"), []
    defenses = {"one": Shifted(0.1, asked), "two": Shifted(0.2, asked)}
    first = compare(defenses, net, data(16), QUESTIONS, folder=tmp_path)
    assert compare(defenses, net, data(16), QUESTIONS, folder=tmp_path) == first and len(asked) == 2
    compare({"one": Shifted(0.15, asked)}, net, data(16), QUESTIONS, folder=tmp_path)
    compare(defenses, network("linear", seed=5), data(16), QUESTIONS, folder=tmp_path)
    compare(defenses, net, data(17), QUESTIONS, folder=tmp_path)
    assert len(asked) == 2 + 1 + 2 + 2


def test_the_tampered_network_stays_as_it_is():
    net = network("batchnorm")
    before = copy.deepcopy(net.state_dict())
    compare({"tune": FineTune(Training(steps=2, lr=0.1))}, net, data(16), QUESTIONS)
    assert all((before[name] == value).all() for name, value in net.state_dict().items())


def test_a_row_says_what_was_run_and_not_what_it_might_have_taken(monkeypatch):
    monkeypatch.setattr(unlearn, "ENOUGH", 0.0)
    defense = UniversalUnlearning(Training(steps=9, lr=0.01), rates=(1.0, 3.0))
    net = network("batchnorm")
    (row,) = compare({"unlearned": defense}, net, data(64), QUESTIONS)
    assert row.steps == 9 and defense.gradients == 18
