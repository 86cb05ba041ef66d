"""The options of `isthmus repair`: the curve, the point on it, the report, the training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path as File
from typing import TYPE_CHECKING, Any, Literal

from cyclopts import Parameter

from isthmus import attacks, curves, defenses, metrics, training
from isthmus.cli.minutes import TimeLimit
from isthmus.cli.options.budget import Budget
from isthmus.cli.options.curve import CurveOptions
from isthmus.cli.options.evaluation import EvaluationOptions
from isthmus.cli.options.landscape import LandscapeOptions
from isthmus.cli.options.objective import RobustTraining
from isthmus.cli.options.values import Number, Whole
from isthmus.types import BadInput

if TYPE_CHECKING:
    from torch import nn

    from isthmus.curves import Route
    from isthmus.data import Data
    from isthmus.defenses import Selection
    from isthmus.training import Training
    from isthmus.types import Defense, Loss

Second = Literal["unlearned", "permuted", "fine-tuned", "perturbed", "averaged"]

STRAIGHT_ENDS = ("unlearned", "averaged")
"""Second endpoints that are repaired networks themselves, and to which the path is straight."""


@Parameter(name="*")
@dataclass(frozen=True)
class RepairCurve(CurveOptions):
    """The curve of a repair.

    :param second: Without OTHER, the copy of TAMPERED that the curve leads to.
    """

    second: Second | None = None

    def check(self, other: File | None, loss: str) -> None:
        """Raise BadInput if options exclude each other."""
        if other and self.second:
            raise BadInput(
                f"OTHER and --second {self.second}",
                expected="one of them",
                fix="a curve has one second endpoint",
            )
        given = [name for name in vars(self) if getattr(self, name) is not None]
        given = [name for name in given if name != "second"]
        if loss != "cross-entropy":
            given.append("loss")
        if self.second in STRAIGHT_ENDS and given:
            options = ", ".join(f"--{name}" for name in given)
            raise BadInput(
                f"--second {self.second} with {options}",
                expected="a straight path",
                fix="leave them out",
            )

    def chosen(self, loss: Loss) -> Route | None:
        """Return the route that the options describe; None, for `repair` to choose, without any."""
        if self.second == "unlearned":
            return defenses.ALMOST
        if self.second == "averaged":
            return defenses.STRAIGHT
        if self.given() or loss is not training.cross_entropy:
            return self.route(loss, curves.DEFAULT_ROUTE)
        return None

    def endpoint(
        self, tampered: nn.Module, bonafide: Data, trained: Training, out: File
    ) -> Defense | None:
        """Return what makes the second endpoint of --second; None leaves it to `repair`."""
        match self.second:
            case "unlearned":
                return defenses.unlearned_copy(tampered, bonafide, trained, home=out)
            case "permuted":
                return defenses.PermutedCopy("random", trained.seed)
            case "fine-tuned":
                budget = curves.network_budget(trained, cost=1)
                return defenses.FineTune(budget, out / "other.state")
            case "perturbed":
                return defenses.PerturbedCopy(seed=trained.seed)
            case "averaged":
                return defenses.averaged_repairs(trained, home=out)
        return None


@Parameter(name="*")
@dataclass(frozen=True)
class PointOptions:
    """How the point on the curve is chosen.

    :param points: How many t are measured between low and high.
    :param t: Take this point, without a choice.
    :param tolerance: Take the point farthest from both ends whose accuracy is within this share of
        the best.
    :param holdout: Share of the clean samples that choose t and train nothing.
    """

    points: Whole = 21
    t: Number | None = None
    tolerance: Number | None = None
    holdout: Number = 0.2

    def check(self) -> None:
        """Raise BadInput if both a point and a rule are given."""
        if self.t is not None and self.tolerance is not None:
            raise BadInput(
                "both --t and --tolerance",
                expected="one of them",
                fix="a given t leaves nothing to choose",
            )

    @property
    def by_default(self) -> bool:
        """Whether nothing says how the point is chosen."""
        return self.t is None and self.tolerance is None

    def selection(self, route: Route | None) -> Selection:
        """Return how the point is selected on this route, or on the default one."""
        if self.t is not None:
            sought = route or curves.DEFAULT_ROUTE
            ts = [*metrics.grid(self.points, sought.low, sought.high), self.t]
            return defenses.Selection(defenses.fixed(self.t), points=ts)
        rule = None if self.tolerance is None else defenses.farthest_within(self.tolerance)
        return defenses.Selection(rule, points=self.points)


@Parameter(name="*")
@dataclass(frozen=True)
class ReportOptions:
    """What the report measures after the choice.

    :param compare: Run the baselines too, on the same samples with the same budget.
    :param inspect: Search TAMPERED for an oddly small trigger too, and show the oddest; this may
        take longer than the repair.
    :param queries: With --trigger, try this many perturbations to wake it without training; by
        default 300, and 0 tries none.
    """

    evaluation: EvaluationOptions = EvaluationOptions()
    landscape: LandscapeOptions = LandscapeOptions()
    compare: bool = False
    inspect: bool = False
    queries: Whole | None = None

    @property
    def tried(self) -> int:
        """How many perturbations are tried."""
        return attacks.QUERIES if self.queries is None else self.queries

    def check(self) -> None:
        """Raise BadInput if options exclude each other or are out of range."""
        self.evaluation.check()
        self.landscape.check()
        if self.tried < 0:
            raise BadInput(
                f"--queries {self.queries}",
                expected="0 or more",
                fix=f"leave it out for {attacks.QUERIES}",
            )
        if self.queries is not None and self.evaluation.trigger is None:
            raise BadInput(
                "--queries without --trigger",
                expected="both or neither",
                fix="leave it out, or pass --trigger and --target",
            )

    def identity(self) -> dict[str, Any]:
        """Return what the measurements of a run are recognized by."""
        chosen = {"compare": self.compare, "inspect": self.inspect, "queries": self.tried}
        return {**chosen, **vars(self.evaluation)}


@Parameter(name="*")
@dataclass(frozen=True)
class TrainingOptions:
    """How the curve is trained, and for what."""

    robust: RobustTraining = RobustTraining()
    budget: Budget = Budget()
    limit: TimeLimit = TimeLimit()
