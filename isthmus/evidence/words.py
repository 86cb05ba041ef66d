"""Values, durations and changes in words, for terminal, page and table."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from isthmus.evidence.record import HealthPart, Value
from isthmus.metrics.values import NATS, SHARE
from isthmus.runs.progress import duration
from isthmus.runs.wording import counted, percent

NO_BREAK_SPACE = "\u00a0"
"""Stands between a number and its unit, which stay on one line."""

_DASH = "\u2013"
_MINUS = "\u2212"


# ── numbers in words ──────────────────────────────────────────────────────────────────────────────
def nats(loss: float) -> str:
    """Return a loss with three decimals, or four digits where it is large.

    >>> nats(0.31249), nats(12345.6)
    ('0.312', '1.235e+04')
    """
    return f"{loss:.3f}" if abs(loss) < 100 else f"{loss:.4g}"


STRAIGHT = "a straight line between the two networks; nothing on it was trained"
"""What a report says of a curve that was not trained."""


def digits(number: float | None) -> str:
    """Return a number with three digits.

    >>> digits(0.12345), digits(None)
    ('0.123', 'not finite')
    """
    return "not finite" if number is None else f"{number:.3g}".replace("-", _MINUS)


def with_quartiles(number: float | None, quartiles: tuple[float, float] | None) -> str:
    """Return a median with the quartiles beside it, where they are known.

    >>> with_quartiles(0.1562, (0.15, 0.2)), with_quartiles(2.0, None)
    ('0.156 (0.15 to 0.2)', '2')
    """
    if number is None or quartiles is None:
        return digits(number)
    return f"{digits(number)} ({digits(quartiles[0])} to {digits(quartiles[1])})"


def time_taken(seconds: float | None) -> str:
    """Return a time that was measured, in tenths of a second below a minute, and from then on as
    `runs.duration` says it.

    >>> [time_taken(s).replace(NO_BREAK_SPACE, " ") for s in (1.24, 75.0, 7500.0, None)]
    ['1.2 s', '1:15 min', '2:05 h', 'not measured']
    """
    if seconds is None:
        return "not measured"
    words = f"{seconds:.1f} s" if seconds < 59.95 else duration(seconds)
    return words.replace(" ", NO_BREAK_SPACE)


def capital(text: str) -> str:
    """Return the text with a capital first, unless it starts with t, the point on the curve.

    >>> capital("fine-tune"), capital("t = 0.1 was given")
    ('Fine-tune', 't = 0.1 was given')
    """
    return text if text.startswith("t ") else text[:1].upper() + text[1:]


def sentence(text: str) -> str:
    """Return a phrase as a sentence: with a capital first and a full stop last.

    >>> sentence("the point farthest from both ends"), sentence("Why not?")
    ('The point farthest from both ends.', 'Why not?')
    """
    text = capital(text.strip())
    return text if not text or text.endswith((".", "!", "?")) else f"{text}."


def points(share: float, *, unit: bool = True) -> str:
    """Return a difference of shares in percentage points, as a person says it.

    >>> points(0.061), points(-0.004), points(0.01), points(0.05, unit=False)
    ('6.1 points', '−0.4 points', '1.0 point', '5.0')
    """
    number = f"{100 * share:.1f}".replace("-0.0", "0.0").replace("-", _MINUS)
    if not unit:
        return number
    return f"{number} point{'' if number.lstrip(_MINUS) == '1.0' else 's'}"


def of_samples(value: Value) -> str:
    """Return of how many samples a value is, where the record says it.

    >>> of_samples(Value(value=0.5, n=1234)), of_samples(Value(value=0.5))
    ('of 1,234 samples', 'of the samples')
    """
    return "of the samples" if value.n is None else f"of {counted(value.n, 'sample', 'samples')}"


# ── values in words ───────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True)
class Wording:
    """A value as a person reads it, and where it and the ends of its interval lie on a scale of 0
    to 100. A `note` stands under it, in the color of warnings where it `warns`.
    """

    main: str
    interval: str = ""
    counts: str = ""
    at: float | None = None
    low: float | None = None
    high: float | None = None
    known: bool = True
    note: str = ""
    warns: bool = False

    @property
    def details(self) -> str:
        """Interval and counts, those that are known."""
        return ", ".join(part for part in (self.interval, self.counts) if part)


def format_value(value: Value | float | None) -> Wording:
    """Return a value in words, by its unit; one that is absent or not finite says so.

    >>> from isthmus.metrics.values import Quantity
    >>> format_value(Quantity(0.568, "share")).main.replace(NO_BREAK_SPACE, " ")
    '56.8 %'
    >>> format_value(0.568).main
    '0.568'
    """
    if value is None:
        return Wording("not measured", known=False)
    if isinstance(value, float):
        value = Value.of(value)
    counts = _counts(value)
    if value.value is None:
        return Wording("not finite", counts=counts, known=False)
    if value.unit == SHARE:
        return _noted(_share(value, value.value, counts), value.health)
    write = nats if value.unit == NATS else digits
    ends = value.interval
    interval = f"{write(ends[0])}{_DASH}{write(ends[1])}" if ends else ""
    return Wording(write(value.value), interval, counts)


def _noted(words: Wording, health: HealthPart | None) -> Wording:
    if health is None:
        return words
    return replace(words, note=health_note(health), warns=not health.trustworthy)


def attack_in_words(identity: str) -> str:
    """Return an attack as a person reads it, from its identity in a record: what it is made of, in
    which balls, and the steps of a single one. An identity of another form is returned as it is.

    >>> attack_in_words("PGD(restarts=1, seed=0, ball=Linf(eps=0.03137254901960784), steps=10)")
    'PGD in Linf of 0.0314, 10 steps'
    >>> attack_in_words("WorstOf(attacks=(FAB(ball=L2(eps=0.5)), Square(ball=L2(eps=0.5))))")
    'FAB and Square in L2 of 0.5'
    >>> attack_in_words("moved_by_hand")
    'moved_by_hand'
    """
    balls = dict.fromkeys(re.findall(r"\b(L\w+)\(eps=([\d.e+-]+)\)", identity))
    names = dict.fromkeys(re.findall(r"\b([A-Z]\w*)\(", identity))
    kinds = [name for name in names if name not in {"WorstOf", *(ball for ball, _ in balls)}]
    parts = [" and ".join(kinds)]
    if balls:
        parts.append("in " + " and ".join(f"{ball} of {float(eps):.3g}" for ball, eps in balls))
    steps = set(re.findall(r"\bsteps=(\d+)", identity))
    ending = f", {steps.pop()} steps" if len(steps) == len(kinds) == 1 else ""
    return f"{' '.join(parts)}{ending}" if kinds else identity


def health_note(health: HealthPart) -> str:
    """Return in one line whether a robust number can be trusted.

    >>> sound = HealthPart(
    ...     trustworthy=True, warnings=(), attack="PGD", samples=9, draws=1, undecided=0.0,
    ...     indicators=(),
    ... )
    >>> health_note(sound)
    'attack checked: nothing found that speaks against the number'
    """
    random = f", mean of {health.draws} draws" if health.draws > 1 else ""
    if not health.trustworthy:
        return f"not to be trusted: {', '.join(health.decisive)}{random}"
    return f"attack checked: nothing found that speaks against the number{random}"


def in_line(value: Value | float | None) -> str:
    """Return a value in words on one line, with its interval and its counts where it has any.

    >>> in_line(0.25), in_line(Value(value=0.5, unit="nats", n=3))
    ('0.25', '0.500 (n = 3)')
    """
    words = format_value(value)
    return f"{words.main} ({words.details})" if words.details else words.main


def _counts(value: Value) -> str:
    if value.n is None:
        return ""
    return f"n = {value.n:,}" if value.hits is None else f"{value.hits:,} of {value.n:,}"


def _share(value: Value, share: float, counts: str) -> Wording:
    ends = value.interval
    if ends is None:
        return Wording(percent(share), counts=counts, at=100 * share)
    low, high = (100 * end for end in ends)
    low, high = max(0, low), min(100, high)  # the normal interval of a mean may leave them
    interval = f"{low:.1f}{_DASH}{high:.1f}{NO_BREAK_SPACE}%"
    return Wording(percent(share), interval, counts, 100 * share, low, high)


def change(before: Value | None, after: Value | None) -> tuple[str, bool]:
    """Return by how much a measure moved, and whether the two intervals overlap, so that chance may
    explain it.
    """
    if before is None or after is None or before.value is None or after.value is None:
        return "", False
    moved = after.value - before.value
    sign = "" if round(moved, 3) == 0 else "+" if moved > 0 else _MINUS
    return sign + _size(abs(moved), after.unit), _overlap(before, after)


def _size(moved: float, unit: str) -> str:
    if unit == SHARE:
        return f"{100 * moved:.1f} points"
    return nats(moved) if unit == NATS else digits(moved)


def _overlap(before: Value, after: Value) -> bool:
    first = before.interval
    second = after.interval
    if first is None or second is None:
        return False
    return first[0] <= second[1] and second[0] <= first[1]


def with_spread(value: Value) -> str:
    """Return a value with three digits, and the middle half of its samples where it is known.

    >>> with_spread(Value(value=12.5, quartiles=(1.0, 8.0, 20.25)))
    '12.5 (1–20.2)'
    """
    if value.quartiles is None:
        return digits(value.value)
    low, _, high = value.quartiles
    return f"{digits(value.value)} ({digits(low)}{_DASH}{digits(high)})"
