"""What all metrics about labeled samples have in common, and `measure`, which puts several metrics
to one network.

A metric is any callable `model -> float`. A class derived from `Question` is one that shares its
passes with others: it says in `answer` what it computes from the passes of a network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from torch import nn

from isthmus.data.dataset import Data, Source, as_data
from isthmus.metrics.passes import Passes
from isthmus.types import Metric

Value = TypeVar("Value", bound=float)


@dataclass(frozen=True, eq=False)
class Question(ABC, Generic[Value]):
    """A metric about labeled samples, which are part of it.

    `data` is anything that `as_data` takes. `samples` are what the network sees, made once, when
    the metric is. Raises BadInput as `as_data` does.
    """

    data: Source = field(repr=False)
    samples: Data = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "samples", self.prepared(as_data(self.data)))

    def prepared(self, data: Data) -> Data:
        """Return the samples that the network sees: the data as they are, unless overridden."""
        return data

    @property
    def gradients(self) -> int:
        """How many gradients a sample costs, at most: none where a class does not say so."""
        return 0

    @property
    def basis(self) -> object:
        """What is computed of the samples beside the network's outputs on them; metrics about the
        same samples that name the same share it. None where outputs will do.
        """
        return None

    @abstractmethod
    def answer(self, passes: Passes) -> Value:
        """Return the metric's value for the network whose passes these are."""

    def __call__(self, model: nn.Module) -> Value:
        """Return the metric's value for the network.

        Raises BadInput where the network cannot read the samples, or its outputs are not one finite
        logit per class.
        """
        return self.answer(Passes(model))


def measure(model: nn.Module, metrics: Mapping[str, Metric]) -> dict[str, float]:
    """Return every metric's value for the network, by name.

    Metrics about the same data share passes, attacks and derivatives.
    """
    return measured(Passes(model), metrics)


def measured(passes: Passes, metrics: Mapping[str, Metric]) -> dict[str, float]:
    """Return every metric's value for the network whose passes these are, by name.

    For those who ask the same network more afterward.
    """
    return {name: _value(metric, passes) for name, metric in metrics.items()}


def _value(metric: Metric, passes: Passes) -> float:
    if isinstance(metric, Question):
        value: float = metric.answer(passes)
        return value
    return metric(passes.model)
