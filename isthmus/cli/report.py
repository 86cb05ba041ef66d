"""`isthmus report`: the page of a record, again."""

from __future__ import annotations

from pathlib import Path as File

from isthmus.cli.app import app
from isthmus.cli.output import say
from isthmus.evidence import page
from isthmus.runs.files import read_json


@app.command(name="report")
def report_command(record: File, *, out: File) -> None:
    """Render the page of a report.json again, into the folder OUT."""
    written = page.write_report(read_json(record), out)
    say(f"wrote {written[1]}")
