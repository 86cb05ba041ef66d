"""A fixed point on a curve as a defense: nothing is held out and nothing is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from isthmus.curves.connection import HIGH, LOW, RHO, connect, curve_options
from isthmus.curves.point import network_at
from isthmus.data.dataset import Source, as_data
from isthmus.defenses.curve_repair.endpoints import made_end
from isthmus.defenses.curve_repair.rules import FAR
from isthmus.training.budget import Training, spending, steps_for
from isthmus.types import Defense


@dataclass(frozen=True)
class Budgeted:
    """A curve with the budget of a defense: `training["steps"]` counts gradient evaluations.

    A sharpness-aware step takes two of them. `training["lr"]` is the curve's. What `other` may cost
    is not counted."""

    training: Training
    other: nn.Module | Defense | None = None
    rho: float = RHO
    adaptive: bool = True
    low: float = LOW
    high: float = HIGH

    def options(self) -> Training:
        """Return the options of `fit` for the curve."""
        options = curve_options(self.training)
        options["steps"] = steps_for(options, cost=2 if self.rho else 1)
        return options

    def shape(self) -> dict[str, Any]:
        """Return what the curve is like: keywords of `connect` and of `repair`."""
        return {"rho": self.rho, "adaptive": self.adaptive, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class OnCurve(Budgeted):
    """The point at `t` of a curve that all of the samples train: nothing is held out and nothing
    measured.
    """

    t: float = FAR

    def __call__(self, tampered: nn.Module, bonafide: Source) -> nn.Module:
        """Return the network at t, BatchNorm recalibrated on the samples. Raises BadInput as
        `connect` does.
        """
        data, options = as_data(bonafide), self.options()
        copying = spending(self.training, options["steps"], "fine-tuning a copy")
        end = made_end(self.other, tampered, data, copying)
        curve, _ = connect(tampered, end.network, data, **self.shape(), **options)
        return network_at(curve, self.t, data)
