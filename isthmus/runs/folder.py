"""Folders that hold one run: claimed by its identity, resumed by the same run, never overwritten."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from isthmus.runs.files import read_json, write_json
from isthmus.types import BadInput


def differing(held: dict[str, Any], now: dict[str, Any]) -> str | None:
    """Return how two descriptions of a run differ, in words; None where they are one run."""
    for key in sorted(held.keys() | now.keys()):
        if held.get(key) != now.get(key):
            return f"{key}: {held.get(key)!r} there, {now.get(key)!r} now"
    return None


def claim_folder(folder: Path | str, identity: dict[str, Any], *, resume: bool) -> Path:
    """Make `folder` the home of the run that `identity` describes, and return it.

    A folder of the same run is entered with `resume`, or anew if it never began; one that holds
    another run, or files that are no run at all, is refused: nothing is ever deleted. Raises
    BadInput then."""
    folder, marker = Path(folder), Path(folder) / "run.json"
    identity = json.loads(json.dumps(identity))
    if marker.exists():
        held = read_json(marker)
        difference = (
            differing(held, identity)
            if isinstance(held, dict)
            else f"{marker.name} is not one of ours"
        )
        if difference:
            raise BadInput(
                f"{folder}, which holds a different run ({difference})",
                expected="a new folder or one of the same run",
                fix="choose another --out",
            )
        if not resume:
            raise BadInput(
                f"{folder}, which holds this run already",
                expected="a new folder",
                fix="pass --resume",
            )
    elif folder.exists() and not (folder.is_dir() and next(folder.iterdir(), None) is None):
        raise BadInput(
            f"{folder}, which is no empty folder",
            expected="a new or empty one",
            fix="choose another --out",
        )
    write_json(marker, identity)
    return folder


@contextmanager
def claimed(folder: Path | str, identity: dict[str, Any], *, resume: bool) -> Iterator[Path]:
    """Claim a folder for the length of a block; a block that fails before it wrote anything gives
    it back.

    Raises BadInput as `claim_folder` does.
    """
    folder = Path(folder)
    fresh = not folder.exists()
    claim_folder(folder, identity, resume=resume)
    try:
        yield folder
    except BaseException:
        if folder.is_dir() and [file.name for file in folder.iterdir()] == ["run.json"]:
            (folder / "run.json").unlink()
            if fresh:
                folder.rmdir()
        raise
