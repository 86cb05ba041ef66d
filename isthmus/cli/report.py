"""`isthmus report`: the page of a record, again."""

from __future__ import annotations

from pathlib import Path as File

from isthmus import evidence, runs
from isthmus.cli.options import InputFile
from isthmus.cli.output import say


def report_command(record: InputFile, *, out: File) -> None:
    """Render the page of a report.json again.

    :param record: The report.json of repair, certify, detect, prune or quantize.
    :param out: The folder that the page is written into.
    """
    _, page = evidence.write_report(runs.read_json(record), out)
    say(f"wrote {page}")
