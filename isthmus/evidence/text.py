"""The evidence of a repair as a table for a terminal or a README."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from isthmus.evidence.compression_record import Compression
from isthmus.evidence.labels import label
from isthmus.evidence.record import CorrelationPart, Landscape, Report, VerdictPart
from isthmus.evidence.summary import TableRow, compared, ingredients, table_rows
from isthmus.evidence.tables import markdown_table, terminal_table
from isthmus.evidence.verdict import decide, without_decision
from isthmus.evidence.words import (
    NO_BREAK_SPACE,
    Wording,
    capital,
    digits,
    format_value,
    in_line,
    sentence,
    time_taken,
    with_quartiles,
    with_spread,
)
from isthmus.metrics.names import ACCURACY, ATTACK_SUCCESS, BONAFIDE_ACCURACY
from isthmus.runs.wording import percent

COLUMNS = 3
"""How many measures fit beside each other on 80 columns."""


# ── tables for a terminal ─────────────────────────────────────────────────────────────────────────
def _effort(row: TableRow) -> list[str]:
    """Gradients and time of a row, those that are known."""
    steps = "" if row.steps is None else f"{row.steps:,}"
    seconds = "" if row.seconds is None else time_taken(row.seconds)
    return [part for part in (steps, seconds) if part]


def table(report: Report) -> Table:
    """Return the networks and what was measured on them, with intervals and counts, for a terminal
    of 80 columns.
    """
    names = compared(report)
    if len(names) > COLUMNS and ACCURACY in names:  # the page has it
        names = [name for name in names if name != BONAFIDE_ACCURACY]
    networks = terminal_table(
        ("Network", *map(label, names), "Gradients, time"),
        (_network_row(row, names) for row in table_rows(report)),
        title=report.title,
        caption="95 % intervals, counts",
    )
    for column in networks.columns[1:-1]:
        column.min_width = 11
    return networks


def _network_row(row: TableRow, names: list[str]) -> list[str | Text]:
    style = "bold" if row.repaired else ""
    settings = row.settings if row.repaired else ""
    head = Text(capital(row.name), style).append(f"\n{settings}", "dim")
    cells = [_cell(format_value(row.measures.get(name)), style) for name in names]
    return [head, *cells, "\n".join(_effort(row))]


def _cell(value: Wording, style: str) -> Text:
    interval = value.interval.removesuffix(f"{NO_BREAK_SPACE}%")
    counts = value.counts.replace(" of ", "/")
    return Text(value.main, style).append(f"\n{interval}\n{counts}\n", "dim")


def compression_table(report: Compression) -> Table:
    """Return what was measured before and after compression, one row for each measure."""
    one = report.before
    other = report.after
    rows = [
        (label(name), in_line(before), in_line(after)) for name, before, after in report.measures
    ]
    rows += [(name, f"{before:,}", f"{after:,}") for name, before, after in report.counts]
    was, now = (with_quartiles(side.milliseconds, side.quartiles) for side in (one, other))
    rows.append(("Time of one image, ms", was, now))
    caption = "95 % intervals; bytes before: an ordinary file of the network"
    caption += f"; {report.about_time}" if report.about_time else ""
    return terminal_table(("Measure", "Before", "After"), rows, caption=caption)


def landscape_tables(part: Landscape) -> list[Table]:
    """Return a landscape for a terminal: values at every t, barriers, and what the robustness loss
    goes with.
    """
    names = [name for name in part.values if not name.startswith("quadratic")]
    rows = [
        (f"{t:.4g}", *(with_spread(part.values[name][i]) for name in names))
        for i, t in enumerate(part.t)
    ]
    barriers = [digits(part.barriers[name]) if name in part.barriers else "" for name in names]
    rows.append(("barrier", *barriers))
    heads = ("t", *map(label, names))
    points = terminal_table(heads, rows, title="Landscape", caption=part.attack, texts=0)
    return [points, _correlations(part)] if part.correlations else [points]


def _correlations(part: Landscape) -> Table:
    rows = [
        (label(pair.second), *_coefficients(pair), _explained(part, pair.second))
        for pair in part.correlations
    ]
    if part.explained:
        rows.append(("‖g‖₁ and λ_max", *[""] * 5, _explained(part, "both")))
    heads = ("", "Pearson", "p", "Spearman", "p", "m", "R²")
    return terminal_table(heads, rows, title="Robustness loss against")


def _coefficients(pair: CorrelationPart) -> list[str]:
    numbers = (pair.pearson, pair.pearson_p, pair.spearman, pair.spearman_p)
    return [*map(digits, numbers), str(pair.m)]


def _explained(part: Landscape, name: str) -> str:
    return digits(part.explained[name]) if name in part.explained else ""


# ── the verdict ───────────────────────────────────────────────────────────────────────────────────
def verdict_lines(report: Report, command: str | None = None) -> list[str]:
    """Return the verdict as a terminal's last lines: the decision and the outcome, then why, what
    it cost, what to mind, what is not known, and the command to run next.

    `command` is the command line as it was typed: the one to run next has its paths, of which a
    report holds names alone.
    """
    verdict = report.decision or decide(report)
    if command is not None:
        verdict = verdict.model_copy(update={"next": decide(report.run_by(command)).next})
    lines = [f"{verdict.decision.upper()}: {without_decision(report)}"]
    return lines + [f"  {name}: {text}" for name, text in _grounds(verdict).items()]


def _grounds(verdict: VerdictPart) -> dict[str, str]:
    """Return what follows the decision, by name, and last the command to run next."""
    parts = {
        "why": verdict.reasons,
        "cost": [verdict.cost],
        "mind": verdict.warnings,
        "not known": verdict.unknown,
        "next": [verdict.next],
    }
    return {name: " ".join(part) for name, part in parts.items() if part}


# ── Markdown ──────────────────────────────────────────────────────────────────────────────────────
def escaped(text: str) -> str:
    """Return text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*_\[\]|<>&#~])", r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """Return text as a code span of Markdown, on one line: shown as it is, and runs when copied.

    >>> code("isthmus report small_cnn"), code("a`b")
    ('`isthmus report small_cnn`', '`` a`b ``')
    """
    text = " ".join(text.split())
    longest = max(map(len, re.findall("`+", text)), default=0)
    if not longest:
        return f"`{text}`" if text else ""
    fence = "`" * (longest + 1)
    return f"{fence} {text} {fence}"


def to_markdown(report: Report | Mapping[str, Any]) -> str:
    """Return verdict, chosen point, comparison and limits as Markdown (tables in GitHub's flavor).

    Raises BadInput where the record is no report.
    """
    report = Report.read(report)
    parts = [
        [f"# {escaped(report.title)}"],
        [f"**{escaped(report.verdict)}**"],
        list(_grounds_in_markdown(report)),
        _warning(report),
        _markdown_table(report),
        ["Intervals are at 95 %."],
        [_chosen(report)],
        reactivated(report),
        compressed(report),
        *_limits(report),
    ]
    text = "\n\n".join("\n".join(lines) for lines in parts if lines)
    return f"{text.replace(NO_BREAK_SPACE, ' ')}\n"


def _grounds_in_markdown(report: Report) -> Iterator[str]:
    for name, text in _grounds(report.decision or decide(report)).items():
        yield f"- {name}: {code(text) if name == 'next' else escaped(text)}"


def _warning(report: Report) -> list[str]:
    if report.choice.confident:
        return []
    reason = escaped(sentence(report.choice.reason))
    return [f"> The samples do not support this choice of t. {reason}"]


def _markdown_table(report: Report) -> list[str]:
    names = compared(report)
    heads = ("Network", *(label(escaped(name)) for name in names), "Gradients, time")
    rows = []
    for row in table_rows(report):
        settings = f" ({escaped(row.settings)})" if row.settings else ""
        values = [in_line(row.measures.get(name)) for name in names]
        cells = [escaped(capital(row.name)) + settings, *values]
        rows.append([*cells, ", ".join(_effort(row))])
    return markdown_table(heads, rows, numbers=True)


def _chosen(report: Report) -> str:
    choice = report.choice
    shares = [f"{percent(share)} {escaped(name)}" for name, share in ingredients(report) if share]
    where = f"Chosen: t = {choice.t:.4g} ({', '.join(shares)}), by {escaped(choice.rule)}:"
    return f"{where} {escaped(choice.reason.rstrip('.'))}."


def reactivated(report: Report) -> list[str]:
    """Return a sentence on what retraining with triggered images brought back, if it was tried."""
    if report.permanence is None or not report.permanence.reactivation:
        return []
    tries = [
        f"{row.images}: {format_value(row.measures[ATTACK_SUCCESS]).main}"
        for row in report.permanence.reactivation
    ]
    return [
        f"Attack success after retraining with this number of triggered images: {', '.join(tries)}."
    ]


def compressed(report: Report) -> list[str]:
    """Return a sentence on what is left of the repaired network after each compression."""
    parts = report.permanence.compressed if report.permanence else ()
    tries = []
    for part in parts:
        measures = part.repaired.measures if part.repaired else {}
        name = ACCURACY if ACCURACY in measures else BONAFIDE_ACCURACY
        shown = [
            f"{label(which)} {format_value(measures[which]).main}"
            for which in (name, ATTACK_SUCCESS)
            if which in measures
        ]
        if shown:
            tries.append(f"{escaped(part.name)}: {', '.join(shown)}")
    return [f"After compression of the repaired network: {'; '.join(tries)}."] if tries else []


def _limits(report: Report) -> list[list[str]]:
    if not report.limits:
        return []
    return [["What this does not prove:"], [f"- {escaped(limit)}" for limit in report.limits]]
