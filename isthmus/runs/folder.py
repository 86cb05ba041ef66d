"""Folders that hold one run: claimed by its identity, resumed by it alone, never overwritten."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from isthmus.runs.decisions import DECISIONS
from isthmus.runs.files import read_json, recorded_writes, write_json
from isthmus.runs.locks import alone, check_vacant, is_there, lock_of
from isthmus.runs.processes import ranks
from isthmus.runs.wording import unwritten
from isthmus.types import BadInput

MARKER = "run.json"
"""The file of a folder that says which run it holds."""

REPORT, PAGE = "report.json", "report.html"
"""The files that a run ends with."""

_TEMPORARY = re.compile(r"\.(.+)\.\d+\.tmp")
"""What `write_atomically` leaves of a file when it is killed."""


def differing(
    held: Mapping[str, Any], now: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> str | None:
    """Return in words how two identities of a run differ; None where they are equal.

    What `held` lacks has its default: an option that is younger than the run was not taken.
    """
    held = {**(defaults or {}), **held}
    for key in sorted(held.keys() | now.keys()):
        if held.get(key) != now.get(key):
            return f"{key}: {held.get(key)!r} there, {now.get(key)!r} now"
    return None


def state_file(folder: Path | None, name: str) -> Path | None:
    """Return where an unfinished training of that name is saved; None without a folder."""
    return None if folder is None else folder / f"{name}.state"


def cut_off(folder: Path, leaves: Collection[str] = ()) -> bool:
    """Return whether a folder with a run.json holds nothing else but what a run has there that was
    killed before its record: what it decided, its lock, the page, the files it `leaves`, by name,
    and parts of files.
    """
    own = {MARKER, DECISIONS, lock_of(folder / MARKER).name, PAGE, *leaves}
    parts = own | {REPORT}
    return all(each.name in own or _part_of(each.name) in parts for each in folder.iterdir())


def _part_of(name: str) -> str | None:
    """Return the name of the file that a temporary one was to become; None for other files."""
    match = _TEMPORARY.fullmatch(name)
    return match[1] if match else None


def claim_folder(
    folder: Path | str,
    identity: dict[str, Any],
    *,
    resume: bool | None,
    defaults: dict[str, Any] | None = None,
    leaves: Collection[str] = (),
) -> Path:
    """Claim `folder` for the run with this identity, by a file run.json in it, and return it.

    A new or empty folder is made; with `resume`, so is one of the same run, which may be older
    than some options: those have their `defaults`. None is for runs that cannot be resumed: where
    the same one was killed (`cut_off`, with the files that it `leaves`), what is left of it is
    deleted, and it starts over. Nothing else is ever deleted. Raises BadInput where the folder
    holds another run, the same one without `resume`, or other files.
    """
    folder = Path(folder)
    marker = folder / MARKER
    identity, defaults = json.loads(json.dumps([identity, defaults]))
    if marker.exists():
        held = read_json(marker)
        difference = (
            differing(held, identity, defaults)
            if isinstance(held, dict)
            else f"{marker.name} is not one of ours"
        )
        if difference:
            raise BadInput(
                f"{folder}, which holds a different run ({difference})",
                expected="a new folder or one of the same run",
                fix="choose another --out",
            )
        if resume is None and cut_off(folder, leaves):
            _clear(folder)
        elif not resume:
            raise BadInput(
                f"{folder}, which holds this run already",
                expected="a new folder",
                fix="choose another --out" if resume is None else "pass --resume",
            )
    else:
        check_vacant(folder)
    write_json(marker, identity)
    return folder


def _clear(folder: Path) -> None:
    """Delete what a killed run left, but for its lock, which is taken. Raises BadInput where the
    folder cannot be written.
    """
    for each in folder.iterdir():
        if each != lock_of(folder / MARKER):
            try:
                each.unlink()
            except OSError as error:
                raise unwritten(each, error) from error


@contextmanager
def claimed(
    folder: Path | str,
    identity: dict[str, Any],
    *,
    resume: bool | None,
    defaults: dict[str, Any] | None = None,
    leaves: Collection[str] = (),
) -> Iterator[Path]:
    """Claim a folder and run a block in it; if the block fails before it writes a file, undo the
    claim. What a run decides before its work is no such file.

    A run that cannot be resumed (`resume` None) and is interrupted or refused, as by a full disk,
    starts over, and so gives back what it wrote itself, too; with anything else in the folder it
    leaves all as it is. Where it was killed, the files that it `leaves`, by name, are in nobody's
    way. False is the first run of one that can: what it saved is what it goes on from. Among
    several processes the first one claims it for all. Raises BadInput as `claim_folder` does, and
    where another run works in the folder.
    """
    folder = Path(folder)
    if not ranks().first:
        yield folder
        return
    fresh = not folder.exists()
    if not (folder / MARKER).exists():
        check_vacant(folder)  # before a lock is put there
    ours = fresh  # what is in a folder that was there belongs to others until it is claimed
    with alone(folder / MARKER, str(folder)), recorded_writes() as written:
        try:
            claim_folder(folder, identity, resume=resume, defaults=defaults, leaves=leaves)
            ours = True
            yield folder
        except BaseException as error:
            starts_over = resume is None and isinstance(error, (KeyboardInterrupt, BadInput))
            if ours:
                _give_back(folder, written if starts_over else (), fresh=fresh)
            raise


@contextmanager
def remembering(folder: Path | None, *progress: Path) -> Iterator[None]:
    """Run a block that keeps what it decides and saves in a hidden folder, beside what it writes;
    if the block made the folder and fails with nothing to go on from, take the folder away.

    It holds something to go on from where there is more in it than decisions, or one of the files
    of `progress`. After an interruption it stays: who resumes the run takes the same decisions.
    """
    fresh = folder is not None and not is_there(folder)
    try:
        yield
    except Exception:
        if folder is not None and fresh and ranks().first and not any(map(is_there, progress)):
            _give_back(folder, (), fresh=True)
        raise


def _give_back(folder: Path, own: Iterable[Path], *, fresh: bool) -> None:
    """Undo a claim where nothing else is in the folder but these files of the run, and folders that
    hold nothing.

    What cannot be removed stays, as open files on Windows: why the run failed is what to tell.
    """
    before_work = {folder / MARKER, folder / DECISIONS, lock_of(folder / MARKER), *own}
    inside = sorted(folder.rglob("*"), reverse=True)  # what is in a folder before the folder
    if folder.is_dir() and {each for each in inside if not each.is_dir()} <= before_work:
        with suppress(OSError):
            for each in inside:
                each.rmdir() if each.is_dir() else each.unlink(missing_ok=True)
            if fresh:
                folder.rmdir()
