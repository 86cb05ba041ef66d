"""Questions about one network, `Module -> float`; the data they ask about are part of the question.

Every answer is a float that carries its interval: a share of samples is a `Rate` (Wilson, 95 %), an average over
samples a `Mean` (normal, 95 %). Several questions about one network share its forward passes, attacks and derivatives
inside `measure`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import InitVar, dataclass, field
from math import hypot, sqrt
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from scipy.stats import binomtest
from torch import Tensor, nn

from isthmus.data import Data, Source, as_data
from isthmus.engine import Precision, as_input, device_of, laid_out, outputs, pass_size
from isthmus.hessian import InputHessian, input_hessian, weight_hessian_top
from isthmus.triggers import Target, triggered
from isthmus.types import Attack, BadInput, Metric, Trigger

_Z95 = 1.959963984540054
T = TypeVar("T")


class Rate(float):
    """A share hits / n with its 95 % Wilson interval [low, high]; refuses n = 0.

    >>> rate = Rate(95, 100)
    >>> float(rate), round(rate.low, 4), round(rate.high, 4)
    (0.95, 0.8882, 0.9785)
    """

    hits: int
    n: int

    def __new__(cls, hits: int, n: int) -> Rate:
        if n < 1 or not 0 <= hits <= n:
            raise BadInput(
                f"{hits} hits of {n}", expected="0 <= hits <= n, n >= 1", fix="count over one sample or more"
            )
        rate = super().__new__(cls, hits / n)
        rate.hits, rate.n = hits, n
        return rate

    def __getnewargs__(self) -> tuple[int, int]:  # type: ignore[override]
        return self.hits, self.n

    @property
    def interval(self) -> tuple[float, float]:
        """The ends of the 95 % Wilson interval."""
        found = binomtest(self.hits, self.n).proportion_ci(method="wilson")
        return float(found.low), float(found.high)

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.interval[0]

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.interval[1]


def least_drop(before: float, after: float) -> float:
    """Return the lower end of the 95 % interval of before - after, for two shares of samples of their own.

    Source: Newcombe, Statistics in Medicine 1998, method 10, from the two Wilson intervals; a value without an interval
    counts as known. For the same samples it is wider than need be.

    >>> round(least_drop(Rate(56, 70), Rate(48, 80)), 4)
    0.0524
    """
    below, above = before - getattr(before, "low", before), getattr(after, "high", after) - after
    return float(before - after - hypot(below, above))


class Mean(float):
    """An average over n samples with its 95 % normal interval [low, high], from their standard deviation.

    `quartiles` (lower, median, upper) are there where the samples are known to spread unevenly.

    >>> mean = Mean.of(torch.tensor([0.0, 1.0, 2.0, 9.0]), quartiles=True)
    >>> float(mean), mean.n, mean.quartiles
    (3.0, 4, (0.75, 1.5, 3.75))
    """

    n: int
    deviation: float
    quartiles: tuple[float, float, float] | None

    def __new__(
        cls, mean: float, n: int, deviation: float, quartiles: tuple[float, float, float] | None = None
    ) -> Mean:
        value = super().__new__(cls, mean)
        value.n, value.deviation, value.quartiles = n, deviation, quartiles
        return value

    @classmethod
    def of(cls, values: Tensor, *, quartiles: bool = False) -> Mean:
        """Return the average of the values, (n,)."""
        values = values.double()
        cuts = torch.quantile(values, torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)) if quartiles else None
        found = (float(cuts[0]), float(cuts[1]), float(cuts[2])) if cuts is not None else None
        return cls(float(values.mean()), len(values), float(values.std(correction=0)), found)

    def __getnewargs__(self) -> tuple[float, int, float, tuple[float, float, float] | None]:  # type: ignore[override]
        return float(self), self.n, self.deviation, self.quartiles

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return float(self) - _Z95 * self.deviation / sqrt(self.n)

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return float(self) + _Z95 * self.deviation / sqrt(self.n)


def as_record(value: float) -> dict[str, Any]:
    """Return a value with what it carries, as plain JSON: `value`, and `hits`, `n`, `low`, `high` where it has them."""
    names = ("hits", "n", "deviation", "low", "high")
    record = {"value": float(value), **{name: getattr(value, name) for name in names if hasattr(value, name)}}
    quartiles = getattr(value, "quartiles", None)
    return record if quartiles is None else {**record, "quartiles": list(quartiles)}


def as_records(found: Mapping[str, float]) -> dict[str, Any]:
    """Return what `measure` found as plain JSON, by name."""
    return {name: as_record(value) for name, value in found.items()}


def from_record(record: Mapping[str, Any]) -> float:
    """Return the value that `as_record` wrote."""
    if "hits" in record:
        return Rate(record["hits"], record["n"])
    if "deviation" in record:
        quartiles = record.get("quartiles")
        return Mean(record["value"], record["n"], record["deviation"], tuple(quartiles) if quartiles else None)
    return float(record["value"])


_Seen = dict[tuple[str | int, ...], tuple[tuple[Any, ...], Any]]  # the objects themselves, lest their ids be reused
_shared: ContextVar[_Seen | None] = ContextVar("what is known of a network", default=None)


@contextmanager
def _sharing() -> Iterator[None]:
    token = _shared.set({})
    try:
        yield
    finally:
        _shared.reset(token)


def _once(what: str, about: tuple[Any, ...], compute: Callable[[], T]) -> T:
    """Return what `compute` gives; within `measure` it is computed once for the same objects."""
    cache = _shared.get()
    if cache is None:
        return compute()
    key: tuple[str | int, ...] = (what, *map(id, about))
    if key not in cache:
        cache[key] = (about, compute())
    found: T = cache[key][1]
    return found


def logits(model: nn.Module, data: Data, precision: Precision = "fp32") -> Tensor:
    """Return the network's outputs on the data, (n, classes) float32 on the CPU, in eval mode.

    Within `measure` each network meets each data set once. Raises BadInput where the outputs are not
    (n, classes), or not finite.
    """
    return _once(f"logits {precision}", (model, data), lambda: _logits(model, data, precision))


def _logits(model: nn.Module, data: Data, precision: Precision) -> Tensor:
    try:
        out = outputs(model, data.x, precision=precision)
    except (BadInput, torch.OutOfMemoryError):
        raise
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        why = str(error).partition("\n")[0]
        raise BadInput(
            f"images of shape {tuple(data.x.shape[1:])} and type {data.x.dtype} that the network cannot read ({why})",
            expected="the shape and type it was built for",
            fix="convert the images, or check the model factory",
        ) from error
    if out.ndim != 2 or out.shape[1] != data.num_classes:
        raise BadInput(
            f"outputs of shape {tuple(out.shape)}",
            expected=f"({len(data)}, {data.num_classes}): one logit per class of the data",
            fix="build the network for these classes, or relabel the data",
        )
    if not torch.isfinite(out).all():
        raise BadInput("outputs that are NaN or infinite", expected="finite logits", fix="check the weights and inputs")
    return out


def measure(model: nn.Module, metrics: Mapping[str, Metric]) -> dict[str, float]:
    """Return every metric's answer about the network; questions about the same data share passes and attacks."""
    with _sharing():
        return {name: metric(model) for name, metric in metrics.items()}


@dataclass(frozen=True, eq=False)
class _AboutSamples:
    """What questions about labelled samples have in common: `asked` are the samples, read once."""

    data: Source = field(repr=False)
    precision: Precision = "fp32"
    asked: Data = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "asked", as_data(self.data))


@dataclass(frozen=True, eq=False)
class Accuracy(_AboutSamples):
    """Share of samples whose largest logit is their label, as a Rate."""

    def __call__(self, model: nn.Module) -> Rate:
        """Return the model's accuracy."""
        right = logits(model, self.asked, self.precision).argmax(1) == self.asked.y
        return Rate(int(right.sum()), len(right))


@dataclass(frozen=True, eq=False)
class Error(_AboutSamples):
    """Share of samples whose largest logit is not their label, as a Rate."""

    def __call__(self, model: nn.Module) -> Rate:
        """Return the model's error."""
        right = Accuracy(self.asked, self.precision)(model)
        return Rate(right.n - right.hits, right.n)


@dataclass(frozen=True, eq=False)
class AttackSuccess:
    """Share of triggered samples, their true class not the target, that are predicted as the target, as a Rate.

    Source: specification, section 5. With target "all" no sample is left out.
    """

    data: Source = field(repr=False)
    trigger: Trigger
    target: Target
    precision: Precision = "fp32"
    asked: Data = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "asked", triggered(as_data(self.data), self.trigger, self.target))

    def __call__(self, model: nn.Module) -> Rate:
        """Return the model's attack success rate."""
        return Accuracy(self.asked, self.precision)(model)


_RESOLVED = 20  # with fewer errors one of them is more than five points


@dataclass(frozen=True, eq=False)
class InjectionSuccess:
    """Share of the images with an injected error that are still predicted as their injected label, as a Rate.

    `errors` are those images with the injected labels. Source: specification, section 7 (injection accuracy). Raises
    BadInput for fewer than 20 errors, whose share resolves nothing.
    """

    errors: Source = field(repr=False)
    precision: Precision = "fp32"
    asked: Data = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "asked", as_data(self.errors))
        if len(self.asked) < _RESOLVED:
            raise BadInput(f"{len(self.asked)} injected errors", expected=f"{_RESOLVED} or more", fix="inject more")

    def __call__(self, model: nn.Module) -> Rate:
        """Return the share of the errors that the model still makes."""
        return Accuracy(self.asked, self.precision)(model)


@dataclass(frozen=True, eq=False)
class Agreement:
    """Share of samples on which a network gives the same answer as a reference network, as a Rate.

    Labels are not read. The reference is asked once, when the metric is made, and not kept.
    """

    reference: InitVar[nn.Module]
    data: Source = field(repr=False)
    precision: Precision = "fp32"
    asked: Data = field(init=False)
    answers: Tensor = field(init=False)

    def __post_init__(self, reference: nn.Module) -> None:
        object.__setattr__(self, "asked", as_data(self.data))
        object.__setattr__(self, "answers", logits(reference, self.asked, self.precision).argmax(1))

    def __call__(self, model: nn.Module) -> Rate:
        """Return the model's agreement with the reference."""
        same = logits(model, self.asked, self.precision).argmax(1) == self.answers
        return Rate(int(same.sum()), len(same))


@dataclass(frozen=True, eq=False)
class MeanLoss(_AboutSamples):
    """Mean cross-entropy over the samples, in nats, as a Mean."""

    def __call__(self, model: nn.Module) -> Mean:
        """Return the model's mean loss."""
        return Mean.of(F.cross_entropy(logits(model, self.asked, self.precision), self.asked.y, reduction="none"))


def _batches(data: Data, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    size = pass_size(data.x, device, gradients=True)
    return zip(data.x.split(size), data.y.split(size), strict=True)


def _attacked_batch(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, channels_last: bool) -> Tensor:
    device = device_of(model)
    x = as_input(x, device, channels_last=channels_last)
    found = attack(model, x, y.to(device)).detach().cpu()
    if found.shape != x.shape:
        raise BadInput(
            f"attacked inputs of shape {tuple(found.shape)}", expected=f"{tuple(x.shape)}", fix="check the attack"
        )
    return found


def attacked(model: nn.Module, data: Data, attack: Attack) -> Data:
    """Return the data with the attacked inputs in place of the images, in batches sized to memory.

    Within `measure` each network meets each attack on each data set once. Raises BadInput where the attack returns
    other shapes, or leaves [0, 1].
    """
    return _once("attacked", (model, data, attack), lambda: _attacked(model, data, attack))


def _attacked(model: nn.Module, data: Data, attack: Attack) -> Data:
    with laid_out(model, data.x) as last:
        done = [_attacked_batch(model, x, y, attack, last) for x, y in _batches(data, device_of(model))]
    return Data(torch.cat(done), data.y, data.classes)


@dataclass(frozen=True, eq=False)
class _UnderAttack:
    """The data that a network is asked about once `attack` has done its worst to them."""

    data: Source = field(repr=False)
    attack: Attack
    precision: Precision = "fp32"
    asked: Data = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "asked", as_data(self.data))


@dataclass(frozen=True, eq=False)
class RobustAccuracy(_UnderAttack):
    """Share of samples that are right after `attack` has done its worst to them, as a Rate.

    Whether a sample is right is measured here, on what the attack returns, not by the attack. Robust accuracy holds
    against the attack that was run: report which one.
    """

    def __call__(self, model: nn.Module) -> Rate:
        """Return the model's accuracy under attack. Raises BadInput where the attack leaves [0, 1]."""
        return Accuracy(attacked(model, self.asked, self.attack), self.precision)(model)


@dataclass(frozen=True, eq=False)
class RobustLoss(_UnderAttack):
    """Mean cross-entropy on attacked inputs, in nats, as a Mean: the robustness loss (specification, section 8).

    The attack has to look for the largest loss, not for the first mistake: `PGD(..., returns="worst")`.
    """

    def __call__(self, model: nn.Module) -> Mean:
        """Return the model's mean loss under attack. Raises BadInput where the attack leaves [0, 1]."""
        return MeanLoss(attacked(model, self.asked, self.attack), self.precision)(model)


@dataclass(frozen=True, eq=False)
class EvasionSuccess(_UnderAttack):
    """Share of samples that are wrong after `attack` has done its worst to them, as a Rate: 1 - RobustAccuracy.

    Samples that are wrong without an attack count: on a barrier there may be no others.
    """

    def __call__(self, model: nn.Module) -> Rate:
        """Return the model's error under attack. Raises BadInput where the attack leaves [0, 1]."""
        return Error(attacked(model, self.asked, self.attack), self.precision)(model)


@dataclass(frozen=True, eq=False)
class Nearby:
    """Average over samples of what the loss is like around each of them, as a Mean with quartiles.

    `quantity` picks one value per sample of an `InputHessian`, as `operator.attrgetter("top")` does, the largest
    eigenvalue. Questions about the same data share the derivatives inside `measure`.
    """

    data: Source = field(repr=False)
    quantity: Callable[[InputHessian], Tensor]
    asked: Data = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "asked", as_data(self.data))

    def __call__(self, model: nn.Module) -> Mean:
        """Return the average. Raises BadInput as `input_hessian` does."""
        data = self.asked
        found = _once("input hessian", (model, data), lambda: input_hessian(model, data.x, data.y))
        return Mean.of(self.quantity(found), quartiles=True)


@dataclass(frozen=True, eq=False)
class WeightCurvature:
    """Largest eigenvalue of the Hessian of the mean loss in the trainable weights: how sharp the minimum is."""

    data: Source = field(repr=False)
    tolerance: float = 1e-2
    asked: Data = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "asked", as_data(self.data))

    def __call__(self, model: nn.Module) -> float:
        """Return the eigenvalue. Raises BadInput as `weight_hessian_top` does."""
        return weight_hessian_top(model, self.asked.x, self.asked.y, tolerance=self.tolerance)


def per_class(model: nn.Module, data: Data, precision: Precision = "fp32") -> dict[str, Rate]:
    """Return the accuracy within each class that has samples, by class name."""
    right = logits(model, data, precision).argmax(1) == data.y
    counts = data.y.bincount(minlength=data.num_classes)
    hits = data.y[right].bincount(minlength=data.num_classes)
    names = tuple(data.classes)  # type: ignore[arg-type]
    return {name: Rate(int(h), int(n)) for name, h, n in zip(names, hits, counts, strict=True) if n}


def check_above_chance(model: nn.Module, data: Source) -> Rate:
    """Return the network's accuracy on trusted data; refuse a network that does no better than a guess.

    A guess is right as often as the same answers would be on shuffled labels; for a network that says the same of
    every image, that is the share of this class. Raises BadInput where the lower end of the accuracy's interval is not
    above that, or of one in the number of classes, or the outputs are not finite.
    """
    data = as_data(data)
    out = logits(model, data)
    said = out.argmax(1)
    accuracy = Rate(int((said == data.y).sum()), len(data))
    shares = [labels.bincount(minlength=data.num_classes).double() / len(data) for labels in (said, data.y)]
    chance = max(1 / data.num_classes, float(shares[0].dot(shares[1])))
    if accuracy.low <= chance:
        raise BadInput(
            f"a network that is right on {accuracy.hits} of {accuracy.n} clean samples, no better than chance",
            expected=f"an accuracy above {chance:.1%} beyond doubt",
            fix="check that normalisation is in the network (inputs are in [0, 1]), the order of the classes, and that "
            "there are enough samples",
        )
    return accuracy
