"""The tester of metrics: every metric of the package runs through the same laws and hard inputs.

A new metric is one row of METRICS; a test fails where one is in no row."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter

import pytest
import torch
from support.networks import data, network
from support.refusals import refused
from torch import nn

import isthmus
from isthmus import BadInput, Data
from isthmus.attacks import PGD, Patch
from isthmus.certification import CertifiedAccuracy, Interval
from isthmus.data import Linf
from isthmus.defenses.inspection.found_triggers import (
    Inverted,
    InvertedSuccess,
    MaskedPattern,
    Misled,
)
from isthmus.defenses.inspection.inversion import Search, SmallestTrigger
from isthmus.detection import DetectionArea
from isthmus.metrics import (
    Accuracy,
    Agreement,
    Area,
    AttackSuccess,
    CalibrationError,
    Confidence,
    Divergence,
    InjectionSuccess,
    Mean,
    MeanLoss,
    Rate,
    RecoveryAccuracy,
    RobustAccuracy,
    RobustLoss,
    as_record,
    from_record,
    measure,
)
from isthmus.metrics.accuracy import Chance, Error
from isthmus.metrics.robustness import EvasionSuccess, Nearby, WeightCurvature
from isthmus.runs import identity_of

pytestmark = pytest.mark.numeric

TRIGGER = Patch(size=2, at=(6, 6))
ATTACK = PGD(Linf(0.03), steps=2, random_start=False, returns="worst")
BRIGHTER = MaskedPattern(torch.full((1, 8, 8), 0.2), torch.ones(3, 8, 8))
INVERTED = [Inverted(BRIGHTER, target, "patch", 12.8, -1.0, Rate(1, 2)) for target in (0, "any")]


@dataclass(frozen=True)
class Row:
    """A metric made from data; whether its value carries an interval."""

    make: Callable
    interval: bool = True


METRICS = {
    "accuracy": Row(Accuracy),
    "error": Row(Error),
    "chance": Row(Chance, interval=False),
    "mean loss": Row(MeanLoss),
    "agreement": Row(lambda samples: Agreement(network("batchnorm", 5), samples)),
    "divergence": Row(lambda samples: Divergence(network("batchnorm", 5), samples)),
    "injection success": Row(InjectionSuccess),
    "attack success": Row(lambda samples: AttackSuccess(samples, TRIGGER, 1)),
    "attack success, all targets": Row(lambda samples: AttackSuccess(samples, TRIGGER, "all")),
    "recovery accuracy": Row(lambda samples: RecoveryAccuracy(samples, TRIGGER, 1)),
    "recovery accuracy, all targets": Row(lambda s: RecoveryAccuracy(s, TRIGGER, "all")),
    "confidence": Row(Confidence),
    "calibration error": Row(CalibrationError),
    "robust accuracy": Row(lambda samples: RobustAccuracy(samples, ATTACK)),
    "robust loss": Row(lambda samples: RobustLoss(samples, ATTACK)),
    "evasion success": Row(lambda samples: EvasionSuccess(samples, ATTACK)),
    "curvature": Row(lambda samples: Nearby(samples, attrgetter("top"))),
    "sharpness": Row(lambda samples: WeightCurvature(samples, tolerance=1e-6), interval=False),
    "certified accuracy": Row(lambda s: CertifiedAccuracy(s, Interval(), Linf(0.001))),
    "detection": Row(lambda samples: DetectionArea(samples, data(60, seed=9), ATTACK, "knn")),
    "misled": Row(lambda samples: Misled(samples, TRIGGER)),
    "inverted success": Row(lambda samples: InvertedSuccess(samples, INVERTED)),
    "inverted success, mean": Row(lambda samples: InvertedSuccess(samples, INVERTED, "mean")),
    "smallest trigger": Row(
        lambda samples: SmallestTrigger(samples, "patch", Search(steps=3, starts=1)),
        interval=False,
    ),
}
DRAWN_IN_BATCHES = {"smallest trigger"}  # its search draws batches, so it depends on their order
EVERY = pytest.mark.parametrize("name", METRICS)
FIXED_ORDER = pytest.mark.parametrize("name", sorted(METRICS.keys() - DRAWN_IN_BATCHES))


def metrics_of_the_package() -> set[type]:
    """Every public class of the package that is called with a network alone."""
    found = set()
    for module in pkgutil.walk_packages(isthmus.__path__, "isthmus."):
        if module.name.endswith("__main__"):
            continue
        members = vars(importlib.import_module(module.name)).values()
        found |= {c for c in members if inspect.isclass(c) and is_metric(c)}
    return found


def is_metric(cls: type) -> bool:
    if not cls.__module__.startswith("isthmus.") or cls.__name__.startswith("_"):
        return False
    if inspect.isabstract(cls) or getattr(cls, "_is_protocol", False):
        return False
    call = inspect.getattr_static(cls, "__call__", None)
    if not inspect.isfunction(call):
        return False
    return list(inspect.signature(call).parameters) == ["self", "model"]


def test_every_metric_of_the_package_is_in_the_table():
    covered = {type(row.make(data(40))) for row in METRICS.values()}
    assert metrics_of_the_package() == covered


def same(one: float, other: float) -> bool:
    """Counts are equal; averages as far as float32 sums of another order are."""
    if isinstance(one, Rate):
        return (one.hits, one.n) == (other.hits, other.n)
    return type(one) is type(other) and one == pytest.approx(other, rel=1e-4)


@FIXED_ORDER
def test_the_order_of_samples_does_not_matter(name):
    samples, net = data(40), network("batchnorm")
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    make = METRICS[name].make
    assert same(make(samples[order])(net), make(samples)(net))


@EVERY
def test_the_size_of_passes_does_not_matter(name, monkeypatch):
    samples, net = data(40), network("batchnorm")
    whole = METRICS[name].make(samples)(net)
    monkeypatch.setattr("isthmus.models.forward._CPU_PASS_VALUES", 7 * samples.x[0].numel())
    assert same(METRICS[name].make(samples)(net), whole)


@EVERY
def test_the_value_carries_an_interval_and_survives_a_record(name):
    value = METRICS[name].make(data(40))(network("batchnorm"))
    assert isinstance(value, float)
    assert isinstance(value, Rate | Mean | Area) == METRICS[name].interval
    if METRICS[name].interval:
        assert value.low <= value <= value.high
    again = from_record(as_record(value), name)
    assert again == value
    assert as_record(again) == as_record(value)


@EVERY
def test_one_answer_alone_within_measure_and_beside_all_others(name):
    samples, net = data(40), network("batchnorm")
    metrics = {n: row.make(samples) for n, row in METRICS.items() if n != "smallest trigger"}
    metrics[name] = METRICS[name].make(samples)
    alone = metrics[name](net)
    assert measure(net, {name: metrics[name]}) == {name: alone}
    assert measure(net, metrics)[name] == alone


@EVERY
def test_a_metric_says_whether_it_takes_gradients(name):
    net, metric = network("batchnorm"), METRICS[name].make(data(40))
    graded = []

    def note(_, __, out):  # bounds of outputs pass here too
        graded.append(isinstance(out, torch.Tensor) and out.requires_grad)

    net.register_forward_hook(note)
    metric(net)
    assert isinstance(metric.gradients, int)
    assert any(graded) == (metric.gradients > 0)


@EVERY
@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_left_as_it_was(name, training):
    net = network("frozen").train(training)
    net[2].train(not training)
    before = {n: value.clone() for n, value in net.state_dict().items()}
    modes = [part.training for part in net.modules()]
    flags = [p.requires_grad for p in net.parameters()]
    METRICS[name].make(data(40))(net)
    assert [part.training for part in net.modules()] == modes
    assert [p.requires_grad for p in net.parameters()] == flags
    assert all(p.grad is None for p in net.parameters())
    after = net.state_dict()
    assert all(torch.equal(value, after[n]) for n, value in before.items())


@EVERY
def test_the_identity_is_that_of_the_settings_and_the_samples(name):
    make = METRICS[name].make
    assert identity_of(make(data(40))) == identity_of(make(data(40)))
    assert identity_of(make(data(40))) != identity_of(make(data(40, seed=1)))


class NotFinite(nn.Module):
    """Logits that are NaN on the first image of every pass."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(192, 4)

    def forward(self, x):
        z = self.out(x.flatten(1))
        return torch.cat([z[:1] * float("nan"), z[1:]])


HARD = {
    "three logits for four classes": lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 3)),
    "images of another shape": lambda: nn.Sequential(nn.Flatten(), nn.Linear(50, 4)),
    "logits for every pixel": lambda: nn.Conv2d(3, 4, 1),
    "NaN": NotFinite,
}


@EVERY
@pytest.mark.parametrize("hard", HARD)
def test_a_network_that_does_not_fit_is_refused(name, hard):
    torch.manual_seed(0)
    metric = METRICS[name].make(data(40))
    refused(lambda: metric(HARD[hard]()))


@EVERY
def test_no_samples_are_refused(name):
    empty = torch.zeros(0, 3, 8, 8)
    refused(lambda: METRICS[name].make((empty, torch.zeros(0, dtype=torch.long))))
    with pytest.raises(BadInput):
        METRICS[name].make(Data(empty, torch.zeros(0, dtype=torch.long), 4))
