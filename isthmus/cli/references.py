"""`isthmus references`: what inspections of clean networks say together, for `isthmus inspect
--references`.
"""

from __future__ import annotations

from isthmus import defenses, runs
from isthmus.cli.options import InputFile, NewFile
from isthmus.cli.output import say
from isthmus.types import BadInput


def references_command(*inspections: InputFile, name: str, out: NewFile) -> None:
    """Collect inspections of clean networks for inspect.

    Train twenty clean networks or more as the suspect was trained, inspect each with samples of its
    own (isthmus inspect --out), and collect the records into OUT. With fewer than 19 networks none
    is called suspicious at the level of 5 %.

    :param inspections: The records, one for each clean network.
    :param name: What verdicts call these networks.
    :param out: A new file for the references (.json).
    """
    records = [runs.read_json(file) for file in inspections]
    references = defenses.collected(records, name)
    networks = [record.get("provenance", {}).get("checkpoint") for record in records]
    for i, file in enumerate(inspections):
        if networks[i] in networks[:i]:
            raise BadInput(
                f"{file}, of a network that is there already",
                expected="one record for each network",
                fix="leave it out",
            )
    defenses.write_references(out, references)
    say(f"wrote {out}: {len(references)} clean networks ({name})")
