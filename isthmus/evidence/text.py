"""The evidence of a repair as a table for a terminal or a README."""

from __future__ import annotations

import re

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from isthmus.evidence.labels import Record, label
from isthmus.evidence.page import Row, ingredients, measures, rows
from isthmus.evidence.record import _checked, _readable
from isthmus.evidence.words import _SPACE, capital, duration, number, sentence, shown
from isthmus.runs.wording import percent


# ── plain text ────────────────────────────────────────────────────────────────────────────────────
def _effort(row: Row) -> str:
    """Steps and time of a row, as far as they are known."""
    steps = "" if row.steps is None else f"{row.steps:,}"
    return ", ".join(
        part for part in (steps, "" if row.seconds is None else duration(row.seconds)) if part
    )


@_readable()
def table(record: Record) -> Table:
    """Return the networks and what was measured on them, with intervals and counts, for a terminal
    of 80 columns.
    """
    record = _checked(record)
    names = measures(record)
    found = Table(
        title=Text(record["title"]), caption="95 % intervals, counts", box=SIMPLE, show_edge=False
    )
    found.add_column("Network")
    for name in names:
        found.add_column(label(name), justify="right", min_width=11)
    found.add_column("Steps, time", justify="right")
    for row in rows(record):
        style = "bold" if row.repaired else ""
        cells = [
            Text(capital(row.name), style).append(
                f"\n{row.settings if row.repaired else ''}", "dim"
            )
        ]
        for name in names:
            each = shown(row.values.get(name), name)
            details = f"\n{each.interval.removesuffix(_SPACE + '%')}\n{each.counts.replace(' of ', '/')}\n"
            cells.append(Text(each.main, style).append(details, "dim"))
        found.add_row(*cells, _effort(row).replace(", ", "\n"))
    return found


def landscape_tables(part: Record) -> list[Table]:
    """Return a landscape for a terminal: values at every t, barriers, and what the robustness loss
    goes with.
    """
    names = [name for name in part["values"] if not name.startswith("quadratic")]
    points = Table(title="Landscape", caption=part["attack"], box=SIMPLE, show_edge=False)
    for head in ("t", *map(label, names)):
        points.add_column(head, justify="right")
    for i, t in enumerate(part["t"]):
        points.add_row(f"{t:.4g}", *(number(part["values"][name][i]["value"]) for name in names))
    points.add_row(
        "barrier",
        *(number(part["barriers"][name]) if name in part["barriers"] else "" for name in names),
    )
    pairs = Table(title="Robustness loss against", box=SIMPLE, show_edge=False)
    for head in ("", "Pearson", "p", "Spearman", "p", "m", "R²"):
        pairs.add_column(head, justify="right" if head else "left")
    for each in part["correlations"]:
        found = [
            number(each[key]) for key in ("pearson", "pearson_p", "spearman", "spearman_p", "m")
        ]
        share = part["explained"].get(each["second"], ...)
        pairs.add_row(label(each["second"]), *found, "" if share is ... else number(share))
    if part["explained"]:
        pairs.add_row("‖g‖₁ and λ_max", *[""] * 5, number(part["explained"]["both"]))
    return [points, pairs]


def _markdown(text: str) -> str:
    """Return text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*_\[\]|<>&#~])", r"\\\1", " ".join(text.split()))


@_readable()
def to_markdown(record: Record) -> str:
    """Return verdict, chosen point, comparison and limits as Markdown (tables in GitHub's flavor)."""
    record = _checked(record)
    choice, names = record["choice"], measures(record)
    lines = [f"# {_markdown(record['title'])}", "", f"**{_markdown(record['verdict'])}**", ""]
    if not choice["confident"]:
        lines += [
            f"> The samples do not support this choice of t. {_markdown(sentence(choice['reason']))}",
            "",
        ]
    lines += [
        "| Network | "
        + " | ".join(label(name) for name in map(_markdown, names))
        + " | Steps, time |",
        "|---|" + "---:|" * (len(names) + 1),
    ]
    for row in rows(record):
        cells = [
            _markdown(capital(row.name)) + (f" ({_markdown(row.settings)})" if row.settings else "")
        ]
        for name in names:
            each = shown(row.values.get(name), name)
            cells.append(each.main + (f" ({each.details})" if each.details else ""))
        cells.append(_effort(row))
        lines.append("| " + " | ".join(cells) + " |")
    parts = ", ".join(f"{percent(share)} {_markdown(name)}" for name, share in ingredients(record))
    lines += [
        "",
        "Intervals are at 95 %.",
        "",
        f"Chosen: t = {choice['t']:.4g} ({parts}), by {_markdown(choice['rule'])}:",
    ]
    lines[-1] += f" {_markdown(choice['reason'].rstrip('.'))}."
    woken = record.get("permanence", {}).get("reactivation", [])
    if woken:
        tries = ", ".join(
            f"{row['images']}: {shown(row['attack success'], 'attack success').main}"
            for row in woken
        )
        lines += ["", f"Attack success after retraining with so many triggered images: {tries}."]
    if record["limits"]:
        lines += [
            "",
            "What this does not prove:",
            "",
            *(f"- {_markdown(limit)}" for limit in record["limits"]),
        ]
    return "\n".join(lines).replace(_SPACE, " ") + "\n"
