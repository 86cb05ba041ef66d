"""`isthmus references`: what inspections of clean networks say together, for `isthmus inspect
--references`.
"""

from __future__ import annotations

from pathlib import Path as File

from isthmus.cli.app import app
from isthmus.cli.output import say, unwritten
from isthmus.defenses.inspection.references import collected, write_references
from isthmus.runs.files import read_json
from isthmus.types import BadInput


@app.command(name="references")
def references_command(*inspections: File, name: str, out: File) -> None:
    """Collect INSPECTIONS of clean networks (isthmus inspect --out) into OUT, the references that
    others are held to.

    Train twenty clean networks or more as the suspect was trained, inspect each with samples of its
    own, and collect. With fewer than 19 no network is called suspicious at the level of 5 %.

    :param inspections: The records, one for each clean network.
    :param name: Which networks they are of, as verdicts shall say it.
    :param out: A new file.
    """
    out, records = unwritten(out), [read_json(file) for file in inspections]
    found = collected(records, name)
    networks = [record.get("provenance", {}).get("checkpoint") for record in records]
    for i, file in enumerate(inspections):
        if networks[i] in networks[:i]:
            raise BadInput(
                f"{file}, of a network that is there already",
                expected="each once",
                fix="leave it out",
            )
    write_references(out, found)
    say(f"wrote {out}: {len(found)} clean networks ({name})")
