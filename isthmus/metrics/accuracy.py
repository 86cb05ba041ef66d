"""Accuracy, loss, agreement, divergence and injection success: what a network answers on given
samples.

Source of injection success: Zhao et al., ICLR 2020, section 3.3 (injection accuracy).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor, nn

from isthmus.data.dataset import Data, Source, as_data
from isthmus.metrics.passes import Passes, logits
from isthmus.metrics.question import Question, Value
from isthmus.metrics.values import NATS, SHARE, Mean, Quantity, Rate
from isthmus.runs.devices import Precision
from isthmus.types import BadInput


def accuracy_on(data: Data, passes: Passes, precision: Precision) -> Rate:
    """Return the share of samples whose largest logit is their label."""
    right = passes.logits(data, precision).argmax(1) == data.y
    return Rate(int(right.sum()), len(right))


def error_on(data: Data, passes: Passes, precision: Precision) -> Rate:
    """Return the share of samples whose largest logit is not their label."""
    right = accuracy_on(data, passes, precision)
    return Rate(right.n - right.hits, right.n)


def loss_on(data: Data, passes: Passes, precision: Precision) -> Mean:
    """Return the mean cross-entropy over the samples, in nats."""
    losses = F.cross_entropy(passes.logits(data, precision), data.y, reduction="none")
    return Mean.of(losses, unit=NATS)


@dataclass(frozen=True, eq=False)
class Accuracy(Question[Rate]):
    """Share of samples whose largest logit is their label, as a Rate."""

    precision: Precision = "fp32"

    def answer(self, passes: Passes) -> Rate:
        return accuracy_on(self.samples, passes, self.precision)


@dataclass(frozen=True, eq=False)
class Error(Question[Rate]):
    """Share of samples whose largest logit is not their label, as a Rate."""

    precision: Precision = "fp32"

    def answer(self, passes: Passes) -> Rate:
        return error_on(self.samples, passes, self.precision)


@dataclass(frozen=True, eq=False)
class MeanLoss(Question[Mean]):
    """Mean cross-entropy over the samples, in nats, as a Mean."""

    precision: Precision = "fp32"

    def answer(self, passes: Passes) -> Mean:
        return loss_on(self.samples, passes, self.precision)


_LEAST_ERRORS = 20  # with fewer of them, one is more than five points


@dataclass(frozen=True, eq=False)
class InjectionSuccess(Question[Rate]):
    """Share of the images with an injected error that are still predicted as their injected label,
    as a Rate.

    The data are those images with the injected labels. Source: Zhao et al., ICLR 2020, section 3.3
    (injection accuracy). Raises BadInput for fewer than 20 errors, whose share resolves nothing.
    """

    precision: Precision = "fp32"

    def prepared(self, data: Data) -> Data:
        if len(data) < _LEAST_ERRORS:
            raise BadInput(
                f"{len(data)} injected errors",
                expected=f"{_LEAST_ERRORS} or more",
                fix=f"inject {_LEAST_ERRORS} errors or more",
            )
        return data

    def answer(self, passes: Passes) -> Rate:
        return accuracy_on(self.samples, passes, self.precision)


@dataclass(frozen=True, eq=False, init=False)
class _Beside(Question[Value]):
    """A question about a network beside a reference network, which answers once, when the metric is
    made, and is not stored; `said` are its logits. Labels are not read.
    """

    precision: Precision
    said: Tensor = field(init=False)

    def __init__(self, reference: nn.Module, data: Source, precision: Precision = "fp32") -> None:
        super().__init__(data)
        object.__setattr__(self, "precision", precision)
        object.__setattr__(self, "said", logits(reference, self.samples, precision))


@dataclass(frozen=True, eq=False, init=False)
class Agreement(_Beside[Rate]):
    """Share of samples on which a network gives the same answer as a reference network, as a Rate.

    Labels are not read. The reference answers once, when the metric is made, and is not stored.
    Raises BadInput where it cannot read the samples.
    """

    def answer(self, passes: Passes) -> Rate:
        same = passes.logits(self.samples, self.precision).argmax(1) == self.said.argmax(1)
        return Rate(int(same.sum()), len(same))


@dataclass(frozen=True, eq=False, init=False)
class Divergence(_Beside[Mean]):
    """How far a network's answers are from a reference network's, in nats, as a Mean:
    KL(reference || network) of their probabilities.

    Unlike agreement, it tells networks apart that give the same answers to a hundred samples.
    Labels are not read. The reference answers once, when the metric is made, and is not stored.
    Raises BadInput where it cannot read the samples.
    """

    def answer(self, passes: Passes) -> Mean:
        given = passes.logits(self.samples, self.precision).log_softmax(1)
        wanted = self.said.log_softmax(1)
        apart = F.kl_div(given, wanted, reduction="none", log_target=True).sum(1)
        return Mean.of(apart, unit=NATS)


def per_class(model: nn.Module, data: Data, precision: Precision = "fp32") -> dict[str, Rate]:
    """Return the accuracy within each class that has samples, by class name."""
    right = logits(model, data, precision).argmax(1) == data.y
    counts = data.y.bincount(minlength=data.num_classes)
    hits = data.y[right].bincount(minlength=data.num_classes)
    names = tuple(data.classes)  # type: ignore[arg-type]
    return {name: Rate(int(h), int(n)) for name, h, n in zip(names, hits, counts, strict=True) if n}


@dataclass(frozen=True, eq=False)
class Chance(Question[Quantity]):
    """How often a guess would be right that gives as many answers of each class as the network, as
    a Quantity: a share.

    That is how often its answers would be right on shuffled labels; if the network gives every
    image the same answer, the share of this class. It is at least one in the number of classes.
    """

    precision: Precision = "fp32"

    def answer(self, passes: Passes) -> Quantity:
        data = self.samples
        answers = passes.logits(data, self.precision).argmax(1)
        shared = float(_shares(answers, data).dot(_shares(data.y, data)))
        return Quantity(max(1 / data.num_classes, shared), SHARE)


def check_above_chance(model: nn.Module, data: Source) -> Rate:
    """Return the network's accuracy on trusted data; refuse a network that does no better than a
    guess.

    Raises BadInput where the lower end of the accuracy's interval is not above `Chance`, or where
    the outputs are not finite.
    """
    passes, samples = Passes(model), as_data(data)
    accuracy, chance = Accuracy(samples).answer(passes), Chance(samples).answer(passes)
    if accuracy.low <= chance:
        raise BadInput(
            f"a network that is right on {accuracy.hits} of {accuracy.n} clean samples, "
            "no better than chance",
            expected=f"an accuracy above {chance:.1%} beyond doubt",
            fix=_way_above(samples),
        )
    return accuracy


def _way_above(samples: Data) -> str:
    """Return what to do about a network that is no better than a guess on such samples."""
    if len(samples.y.unique()) == 1:
        return "give samples of all classes: these are of one, which anybody may guess"
    return (
        "check that normalization is in the network (inputs are in [0, 1]), the order of the "
        "classes, and that there are enough samples"
    )


def _shares(classes: Tensor, data: Data) -> Tensor:
    """Return each class's share among the given classes of the samples, (num_classes,) float64."""
    return classes.bincount(minlength=data.num_classes).double() / len(data)
