"""Which point of a path to trust, from what a defender can see: rules `Path -> Choice`.

Zhao et al., ICLR 2020, report fixed values (0.1 and 0.2) and no rule. A rule receives a path
measured on bonafide data and nothing else; a choice made with the trigger would be an oracle, and
has no place here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from isthmus.data.splits import Parts
from isthmus.metrics.names import BONAFIDE_ACCURACY
from isthmus.metrics.path import Path
from isthmus.metrics.values import Rate, least_drop
from isthmus.runs.wording import abbreviated, percent
from isthmus.types import BadInput

BONAFIDE = BONAFIDE_ACCURACY
"""The metric that rules read: accuracy on bonafide samples that the curve was not trained on."""

FAR = 0.28
"""The t on a curve with the smallest worst-case regret: docs/results/rules.md."""

TRAINED_TOO = "the samples that chose it trained the path as well"
"""Why a choice claims nothing where no samples are held out."""

TOLERANCE = 0.08
"""How much of it a repair may cost, beyond doubt, before a rule objects."""


@dataclass(frozen=True, eq=False)
class Choice(float):
    """A t that can say why: which rule chose it, for what reason, and whether the samples could
    tell.

    It is a number like any other, and compares and prints as one.

    >>> choice = Choice(0.28, rule="fixed(0.28)", reason="as in the paper", confident=False)
    >>> print(choice, choice.reason, choice < 0.5)
    0.28 as in the paper True
    """

    t: float
    rule: str
    reason: str
    confident: bool

    def __new__(cls, t: float, *_: Any, **__: Any) -> Choice:
        """Return the number; the fields are set afterward."""
        return super().__new__(cls, t)

    def __str__(self) -> str:
        return str(float(self))


def without_confidence(choice: Choice, parts: Parts) -> Choice:
    """Return the choice as one that claims nothing where the samples cannot support a claim: they
    trained the path as well, or some classes have none.
    """
    doubts = []
    if choice.confident and not parts.disjoint:
        doubts.append(TRAINED_TOO)
    if parts.missing:
        doubts.append(f"no bonafide sample of {abbreviated(parts.missing)}")
    if not doubts:
        return choice
    reason = "; ".join([choice.reason, *doubts])
    return Choice(float(choice), rule=choice.rule, reason=reason, confident=False)


Rule = Callable[[Path], Choice]
"""A rule for t: from a path measured on bonafide data to the chosen point."""


def default_rule(low: float, high: float, *, enough: bool) -> Rule:
    """Return the rule for t in [low, high]: FAR, or the end of the interval where it excludes FAR.

    If enough samples are held out, their accuracy may lower t.
    """
    far = FAR if low <= FAR <= high else high
    return up_to(far) if enough else fixed(far)


def costs_too_much(path: Path, t: float) -> bool:
    """Return whether the samples show beyond doubt that a measured t has lost more accuracy than
    rules allow.
    """
    return least_drop(max(path[BONAFIDE]), path.at(t)[BONAFIDE]) > TOLERANCE


def end_costs_too_much(path: Path) -> bool:
    """Return whether the last point before t = 1 does (`costs_too_much`)."""
    return costs_too_much(path, max(t for t in path.t if t < 1))


def fixed(t: float) -> Rule:
    """Return the rule that always takes t, as the papers do; it claims no confidence.

    The nearest measured point is taken. Raises BadInput where t is outside [0, 1].
    """
    if not 0 <= t <= 1:
        raise BadInput(f"t = {t:g}", expected="0 <= t <= 1", fix="pass a point on the curve")

    def rule(path: Path) -> Choice:
        nearest = min(path.t, key=lambda point: abs(point - t))
        reason = f"t = {nearest:g} was fixed beforehand, without a look at the samples"
        return Choice(nearest, rule=f"fixed({t:g})", reason=reason, confident=False)

    return rule


def up_to(t: float, tolerance: float = TOLERANCE) -> Rule:
    """Return the rule: t, or the nearest point before it that the samples do not show to cost more
    than `tolerance`.

    A point costs too much where its bonafide accuracy is below the best on the path by more than
    `tolerance` beyond doubt (`metrics.least_drop`); where all points up to t are, the most accurate
    of them is taken. Accuracy says nothing about a backdoor, so it may only lower t, never raise
    it. Not confident where the samples' interval, at the best point or at the chosen one, is wider
    than the tolerance, or every point costs too much. Source: ours; docs/results/rules.md.

    Raises BadInput where the path lacks "bonafide accuracy" or inner points, t is not in (0, 1], or
    the tolerance not in (0, 1).
    """
    if not 0 < t <= 1 or not 0 < tolerance < 1:
        raise BadInput(
            f"t = {t:g}, tolerance {tolerance:g}",
            expected="0 < t <= 1 and a share in (0, 1)",
            fix="pass 0.28 and 0.08",
        )

    def rule(path: Path) -> Choice:
        accuracies = dict(zip(path.t, path[BONAFIDE], strict=True))
        best = max(accuracies.values())
        farthest = _inner(path, t)
        before = [point for point in accuracies if 0 < point <= farthest]
        cheap = [point for point in before if least_drop(best, accuracies[point]) <= tolerance]
        chosen = max(cheap) if cheap else max(before, key=lambda point: accuracies[point])
        doubt = _doubt(best, accuracies[chosen], tolerance, any_left=bool(cheap))
        distance = _distance(chosen, farthest, t, any_cheap=bool(cheap))
        reason = (
            f"{distance}: {percent(accuracies[chosen])} of {_count(best)} held-out bonafide "
            f"samples, {percent(best)} at best"
        )
        if doubt:
            reason = f"cannot tell: {doubt}; {reason}"
        name = f"up_to({t:g}, {tolerance:g})"
        return Choice(chosen, rule=name, reason=reason, confident=not doubt)

    return rule


def lowered(rule: Rule, tolerance: float = TOLERANCE) -> Rule:
    """Return the rule: the choice of another one, or the nearest point before it that the samples
    do not show to cost more than `tolerance`, as `up_to` takes it.

    For a rule that does not read accuracy. A choice that was lowered is never confident: it is
    before the point that the other rule asked for. Raises BadInput as `up_to` does.
    """
    up_to(1.0, tolerance)  # a tolerance that is out of range is refused here

    def lowering(path: Path) -> Choice:
        choice = rule(path)
        if choice == 0.0:  # the received network, which nothing comes before
            return choice
        cheap = up_to(float(choice), tolerance)(path)
        if cheap == choice:
            return choice
        name = f"lowered({choice.rule}, {tolerance:g})"
        reason = f"{cheap.reason}; {choice.reason}"
        return Choice(cheap.t, rule=name, reason=reason, confident=False)

    return lowering


def later(*rules: Rule) -> Rule:
    """Return the rule: of the choices of several rules the farthest one, and of equally far ones
    one that is not confident.
    """

    def rule(path: Path) -> Choice:
        choices = (each(path) for each in rules)
        return max(choices, key=lambda choice: (float(choice), not choice.confident))

    return rule


def _distance(chosen: float, farthest: float, t: float, *, any_cheap: bool) -> str:
    """Say how far `up_to` went of the way to t; `farthest` is the measured point nearest to t."""
    if not any_cheap:
        return f"took t = {chosen:g}, the most accurate point up to t = {farthest:g}"
    if chosen < farthest:
        return f"took t = {chosen:g}, because the points from there to t = {farthest:g} cost more"
    if chosen == t:
        return f"took t = {chosen:g}, as far as the rule goes"
    return f"took t = {chosen:g}, the measured point nearest to the rule's t = {t:g}"


def farthest_within(tolerance: float, *, otherwise: float = FAR) -> Rule:
    """Return the rule: the t farthest from both ends whose bonafide accuracy is within `tolerance`
    of the best.

    Far from both ends, because either may be tampered with, and an attacker who foresees the repair
    can keep the backdoor near the ends but not in the middle (Zhao et al., appendix J). Of two
    equally far points the more accurate one. Where the samples cannot tell (their interval is wider
    than the tolerance, or no interior point is within it) the choice is the inner point nearest to
    `otherwise`, marked as not confident, with the reason in words.

    Raises BadInput where the path lacks "bonafide accuracy", or the tolerance is not in (0, 1).
    """
    if not 0 < tolerance < 1:
        raise BadInput(
            f"tolerance {tolerance}", expected="a share in (0, 1)", fix="pass 0.05 for five points"
        )

    def rule(path: Path) -> Choice:
        name = f"farthest_within({tolerance:g})"
        accuracies = dict(zip(path.t, path[BONAFIDE], strict=True))
        best = max(accuracies.values())
        within = {t: v for t, v in accuracies.items() if 0 < t < 1 and v >= best - tolerance}
        inner = within or {_inner(path, otherwise): best}
        t = max(inner, key=lambda point: (round(min(point, 1 - point), 9), inner[point]))
        doubt = _doubt(best, accuracies[t], tolerance, any_left=bool(within))
        if doubt:
            return _untested(path, otherwise, name, doubt)
        reason = (
            f"t = {t:g} is the farthest point from both ends with an accuracy "
            f"({percent(accuracies[t])}) within {percent(tolerance)} of the best on the path "
            f"({percent(best)}), on {_count(best)} held-out bonafide samples"
        )
        return Choice(t, rule=name, reason=reason, confident=True)

    return rule


def settled(of: str, share: float = 0.1, *, otherwise: float = FAR) -> Rule:
    """Return the rule: the smallest t from which a metric has fallen by all but `share` of what it
    falls on the path.

    For a metric that stands in for the attack success rate: it starts high at the tampered end, and
    where it has settled, going farther costs accuracy for nothing. t = 1 may be tampered with too
    and does not count, nor what comes after the metric's lowest point. Where the fall is within the
    samples' intervals the choice is `otherwise`, not confident. Source: ours;
    docs/results/rules.md. Raises BadInput where the path lacks the metric, or share is not in (0,
    1).
    """
    if not 0 < share < 1:
        raise BadInput(
            f"share {share}",
            expected="a share in (0, 1)",
            fix="pass 0.1 for nine tenths of the fall",
        )

    def rule(path: Path) -> Choice:
        name = f"settled({of!r}, {share:g})"
        values = {t: v for t, v in zip(path.t, path[of], strict=True) if t < 1}
        start = values[min(values)]
        floor = min(values.values())
        if not getattr(start, "low", start) > getattr(floor, "high", floor):
            fall = f"from {percent(start)} to {percent(floor)}"
            return _untested(path, otherwise, name, f"{of} does not fall beyond doubt, {fall}")
        t = _settling_point(values, floor + share * (start - floor))
        reason = (
            f"from t = {t:g} on, {of} has fallen by all but {percent(share)} of its fall on the "
            f"path, from {percent(start)} to {percent(floor)}: it is {percent(values[t])} there"
        )
        return Choice(t, rule=name, reason=reason, confident=True)

    return rule


def _settling_point(values: dict[float, float], line: float) -> float:
    """Return the smallest t from which no value is above the line until the lowest of them."""
    lowest = min(values, key=lambda point: values[point])
    return next(
        t
        for t in values
        if all(value <= line for point, value in values.items() if t <= point <= lowest)
    )


def _untested(path: Path, otherwise: float, name: str, doubt: str) -> Choice:
    """Return the choice of a rule that cannot tell."""
    t = _inner(path, otherwise)
    reason = f"cannot tell: {doubt}; took t = {t:g}, untested"
    return Choice(t, rule=name, reason=reason, confident=False)


def _inner(path: Path, t: float) -> float:
    """Return the point nearest to t, an end only where t is that end. Raises BadInput where a path
    has no other.
    """
    inner = [point for point in path.t if 0 < point < 1 or point == t]
    if not inner:
        raise BadInput(
            "a path measured at its ends alone",
            expected="points between them",
            fix="pass points=21",
        )
    return min(inner, key=lambda point: abs(point - t))


def _count(value: float) -> int:
    return value.n if isinstance(value, Rate) else 0


def _doubt(best: float, chosen: float, tolerance: float, *, any_left: bool) -> str:
    """Say why the samples cannot support a choice, of this accuracy; an empty string where they
    can. The interval of the lower accuracy is mostly the wider one.
    """
    if not isinstance(best, Rate) or not isinstance(chosen, Rate):
        return "the accuracy came without a count of samples"
    half = max(value.high - value.low for value in (best, chosen)) / 2
    if half > tolerance:
        return (
            f"{best.n} held-out samples pin an accuracy down to ±{percent(half)} only, more than "
            f"the tolerance of {percent(tolerance)}"
        )
    if any_left:
        return ""
    return f"no interior point is within {percent(tolerance)} of the best accuracy, {percent(best)}"
