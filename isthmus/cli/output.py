"""What commands print and write."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from isthmus import evidence, models, runs
from isthmus.cli import terminal
from isthmus.types import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path as File

    from rich.table import Table

    from isthmus.data import Data
    from isthmus.defenses import Repair
    from isthmus.evidence import Judge, Landscape, Origin, Report, Value


def say(content: Any) -> None:
    """Print a text or a table, once for all processes."""
    if runs.ranks().first:
        terminal.write(content)


def metric_table(first: str, rows: Sequence[tuple[str, Mapping[str, Value | float]]]) -> Table:
    """Return one row per network, one column per metric: value, 95 % interval, counts."""
    shown = evidence.words.in_line
    lines = ((head, *map(shown, values.values())) for head, values in rows)
    return evidence.tables.terminal_table((first, *rows[0][1]), lines, caption="95 % intervals")


def say_health(rows: Sequence[tuple[str, Mapping[str, Value | float]]]) -> None:
    """Print what the checks of the attacks behind the values say."""
    for line in evidence.health_lines(rows):
        say(line)


def metadata(origin: Origin) -> dict[str, str]:
    """Return a provenance as a checkpoint holds it."""
    return {"provenance": json.dumps(origin.record())}


def say_landscape(part: Landscape) -> None:
    """Print the tables of a landscape, and what to keep in mind with them."""
    for table in evidence.text.landscape_tables(part):
        say(table)
    for caveat in part.caveats:
        say(f"- {caveat}")


REPAIRED = "repaired.safetensors"
"""The file of a repaired network in its folder."""


def deliver(found: Repair, report: Report, out: File) -> None:
    """Write the repaired network, its report and its card, last, into the folder; announce them."""
    models.save_checkpoint(found.model, out / REPAIRED, metadata(report.provenance))
    evidence.write_report(report, out)
    evidence.write_card(report, out)
    _forget_states(out)
    announce(report, out)


def announced_again(out: File, samples: Mapping[str, Data], judge: Judge) -> bool:
    """Return whether the folder holds a whole repair by these samples that was judged by this
    trigger; if so, announce it once more.
    """
    report = _delivered(out)
    if report is None or _asked(report) != _asking(samples, judge):
        return False
    _forget_states(out)
    say(f"the repair in {out} is finished; nothing is left to do")
    announce(report, out)
    return True


def _asked(report: Report) -> tuple[dict[str, str], str | None]:
    """Return the hashes of a report's samples, and its trigger."""
    hashes = {name: samples.sha256 for name, samples in report.provenance.data.items()}
    return hashes, None if report.trigger is None else report.trigger.trigger


def _asking(samples: Mapping[str, Data], judge: Judge) -> tuple[dict[str, str], str | None]:
    """Return the hashes of samples, and a trigger, as a report has them."""
    hashes = {name: each.sha256 for name, each in samples.items()}
    return hashes, None if judge.trigger is None else runs.identity_of(judge.trigger)


def _delivered(out: File) -> Report | None:
    """Return the report of a folder that lacks nothing; None where a file is missing or empty, or
    the network or the record cannot be read.
    """
    texts = [out / evidence.CARD, out / runs.PAGE]
    if not all(file.exists() and file.stat().st_size for file in texts):
        return None
    try:
        models.read_checkpoint(out / REPAIRED)
        return evidence.read_report(out / runs.REPORT)
    except BadInput:
        return None


def _forget_states(out: File) -> None:
    """Delete what unfinished trainings saved in a folder."""
    if runs.ranks().first:
        for state in out.rglob("*.state"):
            state.unlink(missing_ok=True)


def announce(report: Report, out: File) -> None:
    """Print the table of a repair, where its files are and, last, the verdict."""
    say(evidence.text.table(report))
    rows = [("as received", report.before.measures), ("repaired", report.after.measures)]
    say_health(rows)
    if report.landscape is not None:
        say_landscape(report.landscape)
    for line in evidence.text.reactivated(report):
        say(line)
    page = out / runs.PAGE
    say(f"wrote {out / REPAIRED}, {out / evidence.CARD}, {out / runs.REPORT} and {page}")
    for line in evidence.text.verdict_lines(report, evidence.typed_command()):
        say(line)
