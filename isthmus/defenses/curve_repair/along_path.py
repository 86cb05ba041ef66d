"""A repair by a rule on held-out samples as a defense, at a given budget of gradients."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from isthmus.curves.route import DEFAULT_ROUTE, Route
from isthmus.data.dataset import Source
from isthmus.defenses.curve_repair.candidates import candidates
from isthmus.defenses.curve_repair.on_curve import default_within, in_steps
from isthmus.defenses.curve_repair.rules import Rule
from isthmus.defenses.curve_repair.selection import Selection
from isthmus.defenses.curve_repair.ways import follow
from isthmus.defenses.spending import Trained, gradients_of
from isthmus.types import Defense


@dataclass(frozen=True)
class AlongPath(Trained):
    """`repair` with the signature and the budget of a defense.

    `training` is the curve's, but its steps count gradient evaluations, of which a sharpness-aware
    step takes two. What `other` costs comes on top; the endpoint that `repair` makes by itself is
    paid from them. `repair` tries several ways; here the one is taken that spends a given budget,
    the straight path to an unlearned copy where nothing else is said.
    """

    other: nn.Module | Defense | None = None
    route: Route | None = None
    rule: Rule | None = None

    @property
    def gradients(self) -> int:
        """How many gradient evaluations the path and its second endpoint take at most."""
        return self.training.steps + gradients_of(self.other)

    def __call__(self, tampered: nn.Module, bonafide: Source) -> nn.Module:
        """Return the network that `repair` chooses. Raises BadInput as `repair` does."""
        training = in_steps(self.training, self.route or DEFAULT_ROUTE)
        selection = Selection(rule=self.rule)
        parts = selection.parts(bonafide, training.seed)
        ways = candidates(
            tampered,
            parts.whole,
            self.other,
            self.route,
            training=training,
            selection=selection,
        )
        affordable = (way for way in ways if isinstance(way.other, Trained))
        way = ways[0] if self.other is not None else next(affordable, ways[0])
        way = replace(way, selection=replace(way.selection, watch=None))  # no search is counted
        way.check(tampered, parts.whole)
        if self.other is None and isinstance(way.other, Trained):
            way = replace(way, other=way.other.within(self.training.steps))
        if way.other is None:
            other, training = default_within(self.training, way.route, tampered, parts.fitted)
            way = replace(way, other=other, training=training)
        return follow(way, tampered, parts, retries=0).model
