"""Accuracy, loss, agreement and injection success: what a network answers on given samples.

The data that a metric asks about are part of the metric. Source of injection success: Zhao et al.,
ICLR 2020, section 3.3 (injection accuracy)."""

from __future__ import annotations

from dataclasses import InitVar, dataclass, field

import torch.nn.functional as F
from torch import Tensor, nn

from isthmus.data.dataset import Data, Source, as_data
from isthmus.metrics.asking import logits
from isthmus.metrics.values import NATS, Mean, Rate
from isthmus.runs.devices import Precision
from isthmus.types import BadInput


@dataclass(frozen=True, eq=False)
class _AboutSamples:
    """What questions about labeled samples have in common: `asked` are the samples, read once."""

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


_RESOLVED = 20  # with fewer errors one of them is more than five points


@dataclass(frozen=True, eq=False)
class InjectionSuccess:
    """Share of the images with an injected error that are still predicted as their injected label,
    as a Rate.

    `errors` are those images with the injected labels. Source: specification, section 7 (injection
    accuracy). Raises BadInput for fewer than 20 errors, whose share resolves nothing."""

    errors: Source = field(repr=False)
    precision: Precision = "fp32"
    asked: Data = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "asked", as_data(self.errors))
        if len(self.asked) < _RESOLVED:
            raise BadInput(
                f"{len(self.asked)} injected errors",
                expected=f"{_RESOLVED} or more",
                fix="inject more",
            )

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
        return Mean.of(
            F.cross_entropy(
                logits(model, self.asked, self.precision), self.asked.y, reduction="none"
            ),
            unit=NATS,
        )


def per_class(model: nn.Module, data: Data, precision: Precision = "fp32") -> dict[str, Rate]:
    """Return the accuracy within each class that has samples, by class name."""
    right = logits(model, data, precision).argmax(1) == data.y
    counts = data.y.bincount(minlength=data.num_classes)
    hits = data.y[right].bincount(minlength=data.num_classes)
    names = tuple(data.classes)  # type: ignore[arg-type]
    return {name: Rate(int(h), int(n)) for name, h, n in zip(names, hits, counts, strict=True) if n}


def check_above_chance(model: nn.Module, data: Source) -> Rate:
    """Return the network's accuracy on trusted data; refuse a network that does no better than a
    guess.

    A guess is right as often as the same answers would be on shuffled labels; for a network that
    says the same of every image, that is the share of this class. Raises BadInput where the lower
    end of the accuracy's interval is not above that, or of one in the number of classes, or the
    outputs are not finite."""
    data = as_data(data)
    out = logits(model, data)
    said = out.argmax(1)
    accuracy = Rate(int((said == data.y).sum()), len(data))
    shares = [
        labels.bincount(minlength=data.num_classes).double() / len(data)
        for labels in (said, data.y)
    ]
    chance = max(1 / data.num_classes, float(shares[0].dot(shares[1])))
    if accuracy.low <= chance:
        raise BadInput(
            f"a network that is right on {accuracy.hits} of {accuracy.n} clean samples, no better than chance",
            expected=f"an accuracy above {chance:.1%} beyond doubt",
            fix="check that normalization is in the network (inputs are in [0, 1]), the order of the classes, and that "
            "there are enough samples",
        )
    return accuracy
