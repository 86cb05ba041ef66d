"""Files that one process works on at a time.

A lock is the operating system's, on a hidden file beside the one that is worked on: a killed
process loses it at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from isthmus.runs.wording import unwritten
from isthmus.types import BadInput


def lock_of(file: Path) -> Path:
    """Return where the lock of a file is."""
    return file.with_name(f".{file.name}.lock")


def vacant(folder: Path) -> bool:
    """Return whether a folder holds nothing, or nothing but what killed processes have locked."""
    return all(file.name.startswith(".") and file.suffix == ".lock" for file in folder.iterdir())


@contextmanager
def alone(file: Path | str, what: str) -> Iterator[None]:
    """Run a block that no other process runs for the same file at the same time.

    Raises BadInput where another process has the lock, and says that it works on `what`, or where
    nothing can be written.
    """
    from filelock import FileLock, Timeout  # loads asyncio, and `vacant` is to be quick

    file = Path(file)
    lock = FileLock(lock_of(file), thread_local=False)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout as error:
        raise BadInput(
            f"{what}, on which another process works",
            expected="one process at a time",
            fix="wait until it has ended, or choose another place",
        ) from error
    except OSError as error:
        raise unwritten(file, error) from error
    try:
        yield
    finally:
        with suppress(OSError):  # open files stay on Windows
            lock_of(file).unlink()
        lock.release()
