"""Which point of a path to trust, from what a defender can see: rules `Path -> t`.

Zhao et al., ICLR 2020, report fixed values (0.1 and 0.2) and no rule. A rule receives a path
measured on bonafide data and nothing else; a choice made with the trigger would be an oracle, and
has no place here."""

from __future__ import annotations

from collections.abc import Callable

from isthmus.metrics.path import Path
from isthmus.metrics.values import Rate, least_drop
from isthmus.runs.wording import percent
from isthmus.types import BadInput


def default_rule(low: float, high: float, *, enough: bool) -> Rule:
    """Return the rule for t in [low, high]: a t, or less where held-out accuracy objects, if enough
    are held out.

    That t is FAR, or where FAR is not among them the end of the interval.
    """
    far = FAR if low <= FAR <= high else high
    return up_to(far) if enough else fixed(far)


def _end_costs_too_much(path: Path) -> bool:
    """Whether the samples show beyond doubt that the end of a path has lost more accuracy than
    rules allow.
    """
    values = path[BONAFIDE]
    return least_drop(max(values), values[-1]) > TOLERANCE


BONAFIDE = "bonafide accuracy"
"""The metric that rules read: accuracy on bonafide samples that the curve was not trained on."""


FAR = 0.28
"""The t on a curve with the smallest worst-case regret: docs/results/rules.md."""


TOLERANCE = 0.08
"""How much of it a repair may cost, beyond doubt, before a rule objects."""


class Choice(float):
    """A t that can say why: which rule chose it, for what reason, and whether the samples could
    tell.
    """

    rule: str
    reason: str
    confident: bool

    def __new__(cls, t: float, *, rule: str, reason: str, confident: bool) -> Choice:
        """Return the chosen t."""
        choice = super().__new__(cls, t)
        choice.rule, choice.reason, choice.confident = rule, reason, confident
        return choice


Rule = Callable[[Path], Choice]
"""A rule for t: from a path measured on bonafide data to the chosen point."""


def fixed(t: float) -> Rule:
    """Return the rule that always takes t, as the papers do; it claims no confidence.

    The nearest measured point is taken. Raises BadInput where t is outside [0, 1].
    """
    if not 0 <= t <= 1:
        raise BadInput(f"t = {t:g}", expected="0 <= t <= 1", fix="pass a point on the curve")

    def rule(path: Path) -> Choice:
        nearest = min(path.t, key=lambda each: abs(each - t))
        reason = f"t = {nearest:g} was fixed beforehand; the samples had no say"
        return Choice(nearest, rule=f"fixed({t:g})", reason=reason, confident=False)

    return rule


def up_to(t: float, tolerance: float = TOLERANCE) -> Rule:
    """Return the rule: t, or the nearest point before it that the samples do not show to cost more
    than `tolerance`.

    A point costs too much where its bonafide accuracy is below the best on the path by more than
    `tolerance` beyond doubt (`metrics.least_drop`); where all points up to t are, the most accurate
    of them is taken. Held-out accuracy cannot see a backdoor: here it can hold a repair back and
    never lure it on. Not confident where the samples' interval is wider than the tolerance, or
    every point costs too much. Source: ours; docs/results/rules.md.

    Raises BadInput where the path lacks "bonafide accuracy" or inner points, t is not in (0, 1], or
    the tolerance not in (0, 1)."""
    if not 0 < t <= 1 or not 0 < tolerance < 1:
        raise BadInput(
            f"t = {t:g}, tolerance {tolerance:g}",
            expected="0 < t <= 1 and a share in (0, 1)",
            fix="pass 0.28 and 0.08",
        )

    def rule(path: Path) -> Choice:
        values = dict(zip(path.t, path[BONAFIDE], strict=True))
        asked, best = _inner(path, t), max(values.values())
        before = [each for each in values if 0 < each <= asked]
        left = [each for each in before if least_drop(best, values[each]) <= tolerance]
        found = max(left) if left else max(before, key=lambda each: values[each])
        doubt = _doubt(best, tolerance, any_left=bool(left))
        reason = (
            f"t = {found:g} is as far as asked for"
            if found == asked
            else f"t = {found:g} is as far as the samples let it go of the t = {asked:g} asked for"
        )
        reason += f": {percent(values[found])} of {_count(best)} held-out bonafide samples, {percent(best)} at best"
        return Choice(
            found,
            rule=f"up_to({t:g}, {tolerance:g})",
            confident=not doubt,
            reason=f"cannot tell: {doubt}; {reason}" if doubt else reason,
        )

    return rule


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
        values = dict(zip(path.t, path[BONAFIDE], strict=True))
        best = max(values.values())
        inner = {t: v for t, v in values.items() if 0 < t < 1 and v >= best - tolerance}
        doubt = _doubt(best, tolerance, any_left=bool(inner))
        if doubt:
            t = _inner(path, otherwise)
            return Choice(
                t,
                rule=name,
                reason=f"cannot tell: {doubt}; took t = {t:g}, untested",
                confident=False,
            )
        t = max(inner, key=lambda each: (round(min(each, 1 - each), 9), inner[each]))
        reason = (
            f"t = {t:g} is the farthest point from both ends with an accuracy ({percent(values[t])}) within "
            f"{percent(tolerance)} of the best on the path ({percent(best)}), "
            f"on {_count(best)} held-out bonafide samples"
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
    1)."""
    if not 0 < share < 1:
        raise BadInput(
            f"share {share}",
            expected="a share in (0, 1)",
            fix="pass 0.1 for nine tenths of the fall",
        )

    def rule(path: Path) -> Choice:
        name = f"settled({of!r}, {share:g})"
        values = {t: v for t, v in zip(path.t, path[of], strict=True) if t < 1}
        start, floor = values[min(values)], min(values.values())
        if not getattr(start, "low", start) > getattr(floor, "high", floor):
            t = _inner(path, otherwise)
            reason = f"cannot tell: {of} does not fall beyond doubt, from {percent(start)} to {percent(floor)}"
            return Choice(
                t, rule=name, reason=f"{reason}; took t = {t:g}, untested", confident=False
            )
        line = floor + share * (start - floor)
        low = min(values, key=lambda each: values[each])
        t = next(
            t for t in values if all(v <= line for later, v in values.items() if t <= later <= low)
        )
        reason = (
            f"from t = {t:g} on, {of} ({percent(values[t])}) has fallen by {percent(1 - share)} or more of what it "
            f"falls on the path, from {percent(start)} to {percent(floor)}"
        )
        return Choice(t, rule=name, reason=reason, confident=True)

    return rule


def _inner(path: Path, t: float) -> float:
    """Return the point nearest to t, an end only where t is that end. Raises BadInput where a path
    has no other.
    """
    inner = [each for each in path.t if 0 < each < 1 or each == t]
    if not inner:
        raise BadInput(
            "a path measured at its ends alone",
            expected="points between them",
            fix="pass points=21",
        )
    return min(inner, key=lambda each: abs(each - t))


def _count(value: float) -> int:
    return value.n if isinstance(value, Rate) else 0


def _doubt(best: float, tolerance: float, *, any_left: bool) -> str:
    """Say why the samples cannot support a choice; an empty string where they can."""
    if not isinstance(best, Rate):
        return "the accuracy came without a count of samples"
    half = (best.high - best.low) / 2
    if half > tolerance:
        return (
            f"{best.n} held-out samples pin an accuracy down to ±{percent(half)} only, more than the tolerance of "
            f"{percent(tolerance)}"
        )
    return (
        ""
        if any_left
        else f"no interior point is within {percent(tolerance)} of the best accuracy, {percent(best)}"
    )
