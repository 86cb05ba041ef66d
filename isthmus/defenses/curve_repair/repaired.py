"""A repaired network and how it came about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from isthmus.curves.curve import Curve
from isthmus.curves.networks import PathNetworks
from isthmus.curves.route import Route
from isthmus.data.dataset import Data
from isthmus.data.splits import Parts
from isthmus.defenses.curve_repair.endpoints import Endpoint
from isthmus.defenses.curve_repair.preflight import Preflight
from isthmus.defenses.curve_repair.rules import BONAFIDE, TOLERANCE, Choice
from isthmus.defenses.curve_repair.stand_ins import odd_stand_in
from isthmus.defenses.curve_repair.training import TrainedCurve
from isthmus.defenses.inspection.found_triggers import Inverted
from isthmus.metrics.path import Path
from isthmus.metrics.values import least_drop
from isthmus.runs.identity import identity_of
from isthmus.training.budget import History, Training
from isthmus.training.losses import cross_entropy
from isthmus.types import Metric


@dataclass(frozen=True, eq=False, repr=False)
class Repair:
    """A repaired network and how it came about.

    `model` is an ordinary module in eval mode with the state-dict keys of the tampered one: the
    network at `t` of `networks`, which were recalibrated on `parts.fitted` alone. `path` was
    measured by `metrics` on `parts.held_out`, which the curve was not trained on. `rejected` are
    the other repairs that were tried; `objection` says why one was not good enough. `preflight` is
    what was known before any of them.
    """

    model: nn.Module
    t: Choice
    networks: PathNetworks
    path: Path
    endpoint: Endpoint
    trained: TrainedCurve
    parts: Parts
    metrics: Mapping[str, Metric]
    rejected: tuple[Repair, ...] = ()
    objection: str = ""
    preflight: Preflight | None = None

    def __repr__(self) -> str:
        told = "confident" if self.t.confident else "not confident"
        return f"Repair(t={float(self.t):g}, {told}, second={self.second!r})"

    @property
    def curve(self) -> Curve:
        """The curve that the network is a point of."""
        return self.networks.curve

    @property
    def route(self) -> Route:
        """How the curve leads from one end to the other."""
        return self.trained.route

    @property
    def training(self) -> Training:
        """How the curve was trained."""
        return self.trained.training

    @property
    def history(self) -> History | None:
        """How the training of the curve went; None where nothing was trained."""
        return self.trained.history

    @property
    def other(self) -> nn.Module:
        """The network at t = 1."""
        return self.endpoint.network

    @property
    def fitted(self) -> Data:
        """The bonafide samples that the curve was trained on."""
        return self.parts.fitted

    @property
    def held_out(self) -> Data:
        """The bonafide samples that chose t: those of `fitted` where there are too few."""
        return self.parts.held_out

    @property
    def second(self) -> str:
        """Where the network at t = 1 comes from, in words."""
        rejected = [f"{repair.endpoint.spoken} {repair.objection}" for repair in self.rejected]
        return "; ".join([self.endpoint.source, *rejected])

    @property
    def stand_in(self) -> Inverted | None:
        """The oddest universal perturbation or warp that was found on the tampered network and
        watched, here or by a repair that was tried before; None where none is odd, or nothing was
        searched for.
        """
        found = (odd_stand_in(each.metrics) for each in (self, *self.rejected))
        return next(filter(None, found), None)

    @property
    def spent(self) -> int:
        """How many gradients were taken besides those of the curve's last training."""
        rejected = sum(repair.gradients for repair in self.rejected)
        return self.endpoint.gradients + self.trained.wasted + rejected

    @property
    def gradients(self) -> int:
        """How many gradients by the weights were taken in all, by trainings: searches of a rule are
        not counted, nor are those of an attack in the loss.
        """
        steps = self.history.steps if self.history is not None else 0
        return self.spent + steps * self.route.cost

    @property
    def settings(self) -> dict[str, object]:
        """How the curve was made, by name, for a report."""
        route = self.route
        settings: dict[str, object] = {
            "kind": route.kind.__name__,
            "bends": route.bends,
            "weight_decay": self.training.weight_decay,
            "holdout": self.parts.share,
            "low": route.low,
            "high": route.high,
        }
        if route.bends:  # without them nothing is trained by these
            settings |= {
                "rho": route.rho,
                "adaptive": route.adaptive,
                "clip": self.training.clip,
            }
            if route.loss is not cross_entropy:
                settings["loss"] = identity_of(route.loss)
        return settings

    @property
    def damaged(self) -> bool:
        """Whether held-out samples show beyond doubt that even the most accurate inner point costs
        too much.
        """
        values = self.path[BONAFIDE]
        inner = [v for t, v in zip(self.path.t, values, strict=True) if 0 < t < 1 or t == self.t]
        return min(least_drop(max(values), value) for value in inner) > TOLERANCE
