"""The shape of a curve and how it is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from cyclopts import Parameter

from isthmus import curves
from isthmus.cli.options.values import Number, Whole

if TYPE_CHECKING:
    from isthmus.curves import Route
    from isthmus.types import Loss


@Parameter(name="*")
@dataclass(frozen=True)
class CurveOptions:
    """The shape of a curve and how it is trained.

    :param bends: Interior control points of the curve; by default 1.
    :param kind: The curve, bezier or polychain; by default bezier.
    :param rho: Train the curve at the worst weights within this radius, at two gradients a step; 0
        for the plain loss. By default 2 in repair and 0 in connect.
    :param adaptive: Measure --rho in units of each weight's size; the default.
    :param low: Smallest t that is trained, and measured in repair; by default 0.1 in repair and 0
        in connect.
    :param high: Largest t that is trained, and measured in repair; by default 0.4 in repair and 1
        in connect.
    """

    bends: Whole | None = None
    kind: Literal["bezier", "polychain"] | None = None
    rho: Number | None = None
    adaptive: bool | None = None
    low: Number | None = None
    high: Number | None = None

    def given(self) -> dict[str, Any]:
        """Return the options that are on the command line, if only with their default values, as
        fields of `Route`.
        """
        names = ("bends", "kind", "rho", "adaptive", "low", "high")
        values = {name: getattr(self, name) for name in names}
        if self.kind is not None:
            values["kind"] = curves.PolyChain if self.kind == "polychain" else curves.Bezier
        return {name: value for name, value in values.items() if value is not None}

    def route(self, loss: Loss, default: Route) -> Route:
        """Return the route with this loss; options that are not given are those of `default`."""
        return default.replace(loss=loss, **self.given())
