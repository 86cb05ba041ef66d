"""Values, durations and changes in words, for terminal, page and table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from isthmus.evidence.labels import Record, is_loss
from isthmus.runs.wording import percent

_SPACE, _DASH, _MINUS = "\u00a0", "\u2013", "\u2212"  # a number and its unit stay on one line


# ── numbers in words ──────────────────────────────────────────────────────────────────────────────
def nats(loss: float) -> str:
    """Return a loss with three decimals, or four digits where it is large.

    >>> nats(0.31249), nats(12345.6)
    ('0.312', '1.235e+04')
    """
    return f"{loss:.3f}" if abs(loss) < 100 else f"{loss:.4g}"


def duration(seconds: float | None) -> str:
    """Return a time as a person says it.

    >>> [duration(s).replace(_SPACE, " ") for s in (1.24, 75.0, 7500.0, None)]
    ['1.2 s', '1 min 15 s', '2 h 5 min', 'not measured']
    """
    if seconds is None:
        return "not measured"
    if seconds < 59.95:
        return f"{seconds:.1f}{_SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    parts = (
        (minutes, "min", rest, "s") if minutes < 60 else (minutes // 60, "h", minutes % 60, "min")
    )
    return _SPACE.join(str(part) for part in parts)


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
    return text + ("" if not text or text.endswith((".", "!", "?")) else ".")


@dataclass(frozen=True)
class Shown:
    """A value as a person reads it, and where it and the ends of its interval lie on a scale of 0
    to 100.
    """

    main: str
    interval: str = ""
    counts: str = ""
    at: float | None = None
    low: float | None = None
    high: float | None = None
    known: bool = True

    @property
    def details(self) -> str:
        """Interval and counts, as far as they are known."""
        return ", ".join(part for part in (self.interval, self.counts) if part)


def _interval(value: Record) -> tuple[float, float] | None:
    """The ends of a value's interval, where it has one that is finite."""
    low, high = value.get("low"), value.get("high")
    return None if low is None or high is None else (float(low), float(high))


def shown(value: Record | None, name: str) -> Shown:
    """Return a value of the named metric in words; what is absent or not finite says so."""
    if value is None:
        return Shown("not measured", known=False)
    at, ends = value["value"], _interval(value)
    counts = (
        f"{value['hits']:,} of {value['n']:,}"
        if "hits" in value
        else f"n = {value['n']:,}"
        if "n" in value
        else ""
    )
    if at is None:
        return Shown("not finite", counts=counts, known=False)
    if is_loss(name):
        return Shown(nats(at), f"{nats(ends[0])}{_DASH}{nats(ends[1])}" if ends else "", counts)
    if ends is None:
        return Shown(percent(at), counts=counts, at=100 * at)
    interval = f"{100 * ends[0]:.1f}{_DASH}{100 * ends[1]:.1f}{_SPACE}%"
    return Shown(
        percent(at), interval, counts, 100 * at, max(0, 100 * ends[0]), min(100, 100 * ends[1])
    )


def change(before: Record | None, after: Record | None, name: str) -> tuple[str, bool]:
    """Return by how much a measure moved, and whether the two intervals overlap, so that chance may
    explain it.
    """
    if before is None or after is None or before["value"] is None or after["value"] is None:
        return "", False
    moved = after["value"] - before["value"]
    size = nats(abs(moved)) if is_loss(name) else f"{100 * abs(moved):.1f} points"
    first, second = _interval(before), _interval(after)
    overlap = (
        first is not None and second is not None and first[0] <= second[1] and second[0] <= first[1]
    )
    sign = "" if round(moved, 3) == 0 else "+" if moved > 0 else _MINUS
    return sign + size, overlap


def number(value: Record | float | None) -> str:
    """Return a number with three digits, with the middle half of its samples where it is known.

    >>> number(0.12345), number({"value": 12.5, "quartiles": [1.0, 8.0, 20.25]}), number(None)
    ('0.123', '12.5 (1–20.2)', 'not finite')
    """
    if not isinstance(value, Mapping):
        return "not finite" if value is None else f"{value:.3g}".replace("-", _MINUS)
    low, _, high = value.get("quartiles", (None, None, None))
    spread = "" if low is None else f" ({low:.3g}{_DASH}{high:.3g})"
    return number(value["value"]) + spread
