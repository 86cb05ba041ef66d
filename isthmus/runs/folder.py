"""Folders that hold one run: claimed by its identity, resumed by it alone, never overwritten."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from isthmus.runs.decisions import DECISIONS
from isthmus.runs.files import read_json, write_json
from isthmus.types import BadInput


def differing(held: dict[str, Any], now: dict[str, Any]) -> str | None:
    """Return in words how two identities of a run differ; None where they are equal."""
    for key in sorted(held.keys() | now.keys()):
        if held.get(key) != now.get(key):
            return f"{key}: {held.get(key)!r} there, {now.get(key)!r} now"
    return None


def state_file(folder: Path | None, name: str) -> Path | None:
    """Return where an unfinished training of that name is saved; None without a folder."""
    return None if folder is None else folder / f"{name}.state"


def claim_folder(folder: Path | str, identity: dict[str, Any], *, resume: bool) -> Path:
    """Claim `folder` for the run with this identity, by a file run.json in it, and return it.

    A new or empty folder is made; with `resume`, so is one of the same run. Nothing is ever
    deleted. Raises BadInput where the folder holds another run, the same one without `resume`, or
    other files.
    """
    folder = Path(folder)
    marker = folder / "run.json"
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
            f"{folder}, which is not an empty folder",
            expected="a new or empty one",
            fix="choose another --out",
        )
    write_json(marker, identity)
    return folder


@contextmanager
def claimed(folder: Path | str, identity: dict[str, Any], *, resume: bool) -> Iterator[Path]:
    """Claim a folder and run a block in it; if the block fails before it writes a file, undo the
    claim. What a run decides before its work is no such file.

    Raises BadInput as `claim_folder` does.
    """
    folder = Path(folder)
    fresh = not folder.exists()
    claim_folder(folder, identity, resume=resume)
    try:
        yield folder
    except BaseException:
        before_work = {"run.json", DECISIONS}
        if folder.is_dir() and {file.name for file in folder.iterdir()} <= before_work:
            for name in before_work:
                (folder / name).unlink(missing_ok=True)
            if fresh:
                folder.rmdir()
        raise
