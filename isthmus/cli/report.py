"""`isthmus report`: the page of a record, again."""

from __future__ import annotations

from pathlib import Path as File

from isthmus import report
from isthmus.cli.app import app
from isthmus.cli.output import say
from isthmus.files import read_json


@app.command(name="report")
def report_command(record: File, *, out: File) -> None:
    """Render the page of a report.json again, into the folder OUT."""
    written = report.write_report(read_json(record), out)
    say(f"wrote {written[1]}")
