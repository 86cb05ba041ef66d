"""Files that one process works on at a time.

A lock is the operating system's, on a hidden file beside the one that is worked on: a killed
process loses it at once.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from isthmus.runs.notices import notice
from isthmus.runs.wording import first_line, unwritten
from isthmus.types import BadInput

if TYPE_CHECKING:
    from filelock import BaseFileLock

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""What file systems say that have no locks, as some network drives."""


def lock_of(file: Path) -> Path:
    """Return where the lock of a file is."""
    return file.with_name(f".{file.name}.lock")


def is_there(path: Path) -> bool:
    """Return whether anything has that name; a link that leads nowhere has it, too.

    Raises OSError where no file system takes the name.
    """
    return path.is_symlink() or path.exists()


@contextmanager
def making_folders(path: Path) -> Iterator[None]:
    """Run a block that may make the folders which a path lies in; where it fails, take away those
    that it made and left empty.
    """
    absent = [folder for folder in path.absolute().parents if not os.path.lexists(folder)]
    try:
        yield
    except BaseException:
        for folder in absent:
            with suppress(OSError):  # it holds something, or was never made
                folder.rmdir()
        raise


def vacant(folder: Path) -> bool:
    """Return whether a folder holds nothing, or nothing but what killed processes have locked."""
    return all(file.name.startswith(".") and file.suffix == ".lock" for file in folder.iterdir())


def check_vacant(folder: Path) -> None:
    """Raise BadInput where there is something that is no run's."""
    if is_there(folder) and not (folder.is_dir() and vacant(folder)):
        raise BadInput(
            f"{folder}, which is not an empty folder",
            expected="a new or empty one",
            fix="choose another --out",
        )


@contextmanager
def alone(file: Path | str, what: str) -> Iterator[None]:
    """Run a block that no other process runs for the same file at the same time; folders that were
    made for the lock alone go where the block fails.

    Where the file system has no locks the block runs all the same, and a notice says so. Raises
    BadInput where another process has the lock, and says that it works on `what`, or where nothing
    can be written.
    """
    from filelock import FileLock  # loads asyncio, and `vacant` is to be quick

    file = Path(file)
    lock = FileLock(lock_of(file), thread_local=False)
    with making_folders(file):
        _acquire(lock, file, what)
        try:
            yield
        finally:
            with suppress(OSError):  # open files stay on Windows
                lock_of(file).unlink()
            lock.release()


def _acquire(lock: BaseFileLock, file: Path, what: str) -> None:
    """Take the lock of a file, where there are locks. Raises BadInput as `alone` does."""
    from filelock import Timeout

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout as error:
        raise BadInput(
            f"{what}, on which another process works",
            expected="one process at a time",
            fix="wait until it has ended, or choose another place",
        ) from error
    except NotImplementedError as error:  # older versions of filelock, of ENOSYS
        _tell_of_no_locks(what, error)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise unwritten(file, error) from error
        _tell_of_no_locks(what, error)


def _tell_of_no_locks(what: str, error: BaseException) -> None:
    notice(f"no lock for {what} ({first_line(error)}): start no second process on it")
