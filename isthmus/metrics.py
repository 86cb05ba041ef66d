"""Questions about one network, `Module -> float`; the data they ask about are part of the question.

Every answer is a float that carries its interval: a share of samples is a `Rate` (Wilson, 95 %), an average over
samples a `Mean` (normal, 95 %). Several questions about one network share its forward passes inside `measure`, and
what an attack found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import InitVar, dataclass, field
from math import sqrt
from typing import Any

import torch
import torch.nn.functional as F
from scipy.stats import binomtest
from torch import Tensor, nn

from isthmus.data import Data, Source, as_data
from isthmus.engine import Precision, as_input, device_of, laid_out, outputs, pass_size
from isthmus.triggers import Target, triggered
from isthmus.types import Attack, BadInput, Metric, Trigger

_Z95 = 1.959963984540054


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


class Mean(float):
    """An average over n samples with its 95 % normal interval [low, high], from their standard deviation."""

    n: int
    deviation: float

    def __new__(cls, mean: float, n: int, deviation: float) -> Mean:
        value = super().__new__(cls, mean)
        value.n, value.deviation = n, deviation
        return value

    def __getnewargs__(self) -> tuple[float, int, float]:  # type: ignore[override]
        return float(self), self.n, self.deviation

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
    return {"value": float(value), **{name: getattr(value, name) for name in names if hasattr(value, name)}}


def from_record(record: Mapping[str, Any]) -> float:
    """Return the value that `as_record` wrote."""
    if "hits" in record:
        return Rate(record["hits"], record["n"])
    if "deviation" in record:
        return Mean(record["value"], record["n"], record["deviation"])
    return float(record["value"])


_Seen = dict[tuple[Any, ...], tuple[Any, ...]]  # by id, with the objects themselves, lest their ids be reused
_shared: ContextVar[_Seen | None] = ContextVar("shared outputs", default=None)


@contextmanager
def _sharing() -> Iterator[None]:
    token = _shared.set({})
    try:
        yield
    finally:
        _shared.reset(token)


def logits(model: nn.Module, data: Data, precision: Precision = "fp32") -> Tensor:
    """Return the network's outputs on the data, (n, classes) float32 on the CPU, in eval mode.

    Within `measure` each network meets each data set once. Raises BadInput where the outputs are not (n, classes).
    """
    cache, key = _shared.get(), (id(model), id(data), precision)
    if cache is not None and key in cache:
        found: Tensor = cache[key][-1]
        return found
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
    if cache is not None:
        cache[key] = (model, data, out)
    return out


def measure(model: nn.Module, metrics: Mapping[str, Metric]) -> dict[str, float]:
    """Return every metric's answer about the network; questions about the same data share one forward pass."""
    with _sharing():
        return {name: metric(model) for name, metric in metrics.items()}


@dataclass(frozen=True, eq=False)
class Accuracy:
    """Share of samples whose largest logit is their label, as a Rate."""

    data: Source = field(repr=False)
    precision: Precision = "fp32"
    asked: Data = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "asked", as_data(self.data))

    def __call__(self, model: nn.Module) -> Rate:
        """Return the model's accuracy."""
        right = logits(model, self.asked, self.precision).argmax(1) == self.asked.y
        return Rate(int(right.sum()), len(right))


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
class MeanLoss:
    """Mean cross-entropy over the samples, in nats, as a Mean."""

    data: Source = field(repr=False)
    precision: Precision = "fp32"
    asked: Data = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "asked", as_data(self.data))

    def __call__(self, model: nn.Module) -> Mean:
        """Return the model's mean loss."""
        losses = F.cross_entropy(logits(model, self.asked, self.precision), self.asked.y, reduction="none").double()
        return Mean(float(losses.mean()), len(losses), float(losses.std(correction=0)))


def _batches(data: Data) -> Iterator[tuple[Tensor, Tensor]]:
    size = pass_size(data.x, gradients=True)
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

    Within `measure` each attack meets each network and data set once. Raises BadInput where the attack returns other
    shapes, or leaves [0, 1].
    """
    cache, key = _shared.get(), (id(model), id(data), id(attack))
    if cache is not None and key in cache:
        known: Data = cache[key][-1]
        return known
    with laid_out(model, data.x) as last:
        done = [_attacked_batch(model, x, y, attack, last) for x, y in _batches(data)]
    found = Data(torch.cat(done), data.y, data.classes)
    if cache is not None:
        cache[key] = (model, data, attack, found)
    return found


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
    if not torch.isfinite(out).all():
        raise BadInput("outputs that are NaN or infinite", expected="finite logits", fix="check the weights and inputs")
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
