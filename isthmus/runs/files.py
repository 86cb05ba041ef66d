"""Files that are either whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from isthmus.runs.locks import making_folders
from isthmus.runs.wording import first_line, unwritten
from isthmus.types import BadInput

_written: ContextVar[list[Path] | None] = ContextVar("written", default=None)


@contextmanager
def recorded_writes() -> Iterator[list[Path]]:
    """Run a block and yield the list of the files that `write_atomically` writes in it."""
    written: list[Path] = []
    token = _written.set(written)
    try:
        yield written
    finally:
        _written.reset(token)


def write_atomically(path: Path | str, write: Callable[[Path], Any]) -> Path:
    """Call `write` on a temporary neighbor of `path`, then put it in place; on failure nothing is
    left.

    Raises BadInput where the disk is full or the folder cannot be written.
    """
    path = Path(path)
    if "\0" in str(path):
        raise unwritten(repr(str(path)), ValueError("a zero byte in its name"))
    with making_folders(path):
        return _put_in_place(path, write)


def _put_in_place(path: Path, write: Callable[[Path], Any]) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode & 0o777  # the user's umask; some writers take 0600
        write(temporary)
        temporary.chmod(mode)
        written = _written.get()
        if written is not None:
            written.append(path)  # before it is there: an interrupt may come between the two
        os.replace(temporary, path)
    except (
        OSError,
        RuntimeError,
        SafetensorError,
    ) as error:  # in which torch and safetensors report a full disk
        raise unwritten(path, error) from error
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


def read_json(
    path: Path | str, *, fix: str = "pass the path of a JSON file that isthmus wrote"
) -> Any:
    """Return the record in a JSON file. Raises BadInput where it is missing or no JSON; of a file
    that others wrote, `fix` says what to do about it.
    """
    try:
        return parse_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} ({error})", expected="a readable JSON file", fix=fix) from error


def parse_json(text: str | bytes) -> Any:
    """Return what a text in JSON holds. Raises ValueError where it is no JSON, or nested so deeply
    that Python does not read it.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def check_sums(path: Path | str) -> None:
    """Raise BadZipFile where a zip file, as torch writes, is damaged: torch does not look at its
    sums.

    Torch can be told to write none; then they are all zero, and nothing is known.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            summed = any(member.CRC for member in archive.infolist())
            damaged = archive.testzip() if summed else None
    except OSError:
        raise
    except Exception as error:  # what a damaged file makes zipfile raise is open-ended
        raise zipfile.BadZipFile(first_line(error)) from error
    if damaged:
        raise zipfile.BadZipFile(f"{damaged} is not what was written")


def file_sha256(path: Path | str) -> str:
    """Return the SHA-256 of a file's bytes, in hex; of an index (`.index.json`) with its parts."""
    path = Path(path)
    digest = hashlib.sha256()
    for part in [path, *_parts(path)]:
        with part.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def _parts(path: Path) -> list[Path]:
    """Return the files beside an index that it names; none for any other file."""
    if not path.name.endswith(".index.json"):
        return []
    index = read_json(path)
    names = index.get("weight_map", {}).values() if isinstance(index, dict) else []
    return sorted({path.parent / Path(str(name)).name for name in names})
