"""Files that are either whole or not there, and folders that hold one run."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from isthmus.types import BadInput


def write_atomically(path: Path | str, write: Callable[[Path], Any]) -> Path:
    """Call `write` on a temporary neighbour of `path`, then put it in place; on failure nothing is left.

    Raises BadInput where the disk is full or the folder cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError, SafetensorError) as error:  # in which torch and safetensors report a full disk
        raise BadInput(
            f"{path}, which could not be written ({str(error).partition(chr(10))[0]})",
            expected="a folder that can be written, with room on the disk",
            fix="free some space or choose another place; nothing was left half-written",
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()
    return path


def write_text(path: Path | str, text: str) -> Path:
    """Write text atomically. Raises BadInput as `write_atomically` does."""
    return write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path | str, record: Any) -> Path:
    """Write a record as indented JSON, atomically. Raises BadInput as `write_atomically` does."""
    return write_text(path, json.dumps(record, indent=2, allow_nan=False) + "\n")


def read_json(path: Path | str) -> Any:
    """Return the record in a JSON file. Raises BadInput where it is missing or no JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} ({error})", expected="a readable JSON file", fix="check the path") from error


def file_sha256(path: Path | str) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def differing(held: dict[str, Any], now: dict[str, Any]) -> str | None:
    """Return how two descriptions of a run differ, in words; None where they are one run."""
    for key in sorted(held.keys() | now.keys()):
        if held.get(key) != now.get(key):
            return f"{key}: {held.get(key)!r} there, {now.get(key)!r} now"
    return None


def claim_folder(folder: Path | str, identity: dict[str, Any], *, resume: bool) -> Path:
    """Make `folder` the home of the run that `identity` describes, and return it.

    A folder of the same run is entered with `resume`, or anew if it never began; one that holds another run, or files
    that are no run at all, is refused: nothing is ever deleted. Raises BadInput then.
    """
    folder, marker = Path(folder), Path(folder) / "run.json"
    identity = json.loads(json.dumps(identity))
    if marker.exists():
        held = read_json(marker)
        difference = differing(held, identity) if isinstance(held, dict) else f"{marker.name} is not one of ours"
        if difference:
            raise BadInput(
                f"{folder}, which holds a different run ({difference})",
                expected="a new folder or one of the same run",
                fix="choose another --out",
            )
        if not resume:
            raise BadInput(f"{folder}, which holds this run already", expected="a new folder", fix="pass --resume")
    elif folder.exists() and not (folder.is_dir() and next(folder.iterdir(), None) is None):
        raise BadInput(f"{folder}, which is no empty folder", expected="a new or empty one", fix="choose another --out")
    write_json(marker, identity)
    return folder


@contextmanager
def claimed(folder: Path | str, identity: dict[str, Any], *, resume: bool) -> Iterator[Path]:
    """Claim a folder for the length of a block; a block that fails before it wrote anything gives it back.

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
