"""How the point on a path is selected: what is measured there, and the rule that reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from isthmus.curves.route import Route
from isthmus.data.dataset import Data, Source, as_data
from isthmus.data.splits import HOLDOUT, Parts
from isthmus.defenses.curve_repair.rules import BONAFIDE, Rule, default_rule
from isthmus.metrics.accuracy import Accuracy, MeanLoss
from isthmus.metrics.names import BONAFIDE_LOSS
from isthmus.metrics.path import grid
from isthmus.types import BadInput, Metric

Watched = Callable[[nn.Module, Data, Data], Mapping[str, Metric]]
"""`(tampered, fitted, held_out) -> metrics`: more metrics along the path for the rule to read."""


@dataclass(frozen=True)
class Selection:
    """How `repair` selects the point on a path.

    `rule` reads the path; None is `default_rule`. `watch` adds metrics for it to read, see
    `stand_ins`; those of bonafide samples stay what they are. `points` is a number of equally
    spaced t on the route's interval, or the values of t. `holdout` is the share of the bonafide
    samples that select and train nothing; None is HOLDOUT for samples that are not split yet.

    Raises BadInput where there are fewer than two points or a value is outside [0, 1]: here, before
    anything is trained.
    """

    rule: Rule | None = None
    watch: Watched | None = None
    points: int | Sequence[float] = 21
    holdout: float | None = None

    def __post_init__(self) -> None:
        grid(self.points)

    def parts(self, bonafide: Source | Parts, seed: int) -> Parts:
        """Return the samples in parts, split by the seed; `Parts` are what they are.

        Raises BadInput as `Parts.of` does, and where a share is to be held out of samples that are
        split already.
        """
        if not isinstance(bonafide, Parts):
            share = HOLDOUT if self.holdout is None else self.holdout
            return Parts.of(as_data(bonafide), share, seed=seed)
        if self.holdout is not None:
            raise BadInput(
                f"holdout = {self.holdout:g} and samples that are split already",
                expected="one or the other",
                fix="leave holdout out, or pass the samples before they are split",
            )
        return bonafide

    @property
    def values_of_t(self) -> Sequence[float] | None:
        """The values of t, where they are given."""
        return None if isinstance(self.points, int) else self.points

    def grid(self, route: Route) -> tuple[float, ...]:
        """Return the t that are measured: the points and both ends, sorted."""
        return tuple(sorted({0.0, *grid(self.points, route.low, route.high), 1.0}))

    def metrics(self, tampered: nn.Module, parts: Parts) -> dict[str, Metric]:
        """Return what is measured at each t, by name."""
        own: dict[str, Metric] = {
            BONAFIDE: Accuracy(parts.held_out),
            BONAFIDE_LOSS: MeanLoss(parts.held_out),
        }
        if self.watch is None:
            return own
        watched = self.watch(tampered, parts.fitted, parts.held_out)
        return {**own, **{name: metric for name, metric in watched.items() if name not in own}}

    def rule_for(self, route: Route, parts: Parts) -> Rule:
        """Return the rule, or the default one for the route's interval."""
        if self.rule is not None:
            return self.rule
        return default_rule(route.low, route.high, enough=parts.disjoint)
