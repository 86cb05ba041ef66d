"""The cache of decoded images: one .npy file a source, mapped, made again when that changes."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from isthmus.data.mapped import RowFile, Unwritable, cache_folder, mapped_npy
from isthmus.runs.files import write_atomically
from isthmus.runs.notices import notice
from isthmus.runs.sweep import once
from isthmus.runs.wording import first_line

_DECODER = "3"  # part of the files' names: raise it when decoding changes


def kept(file: Path | None, rows: int) -> Tensor | None:
    """Return the images that a file keeps; None where it is not there, or not whole."""
    with suppress(OSError):
        return None if file is None else mapped_npy(file, rows)
    return None


def made_and_kept(file: Path | None, rows: int, make: Callable[[], Iterator[Tensor]]) -> Tensor:
    """Make the images of a source, keep them in its file and return them; one process makes them
    while others wait.

    Where they cannot be kept, they are made in memory, and a notice says so.
    """
    try:
        if file is None:
            raise Unwritable("there is no home folder")
        return _made(file, rows, make)
    except (Unwritable, OSError) as error:  # of our files: those of images are BadInput
        notice(
            f"decoded images cannot be kept in {file.parent if file else 'a cache'} "
            f"({first_line(error)}): all {rows:,} are decoded into memory"
        )
        return _in_memory(rows, make())


def _made(file: Path, rows: int, make: Callable[[], Iterator[Tensor]]) -> Tensor:
    def write() -> None:
        for left in file.parent.glob(f".{file.name}.*.tmp"):  # by a process that was killed
            left.unlink()
        write_atomically(file, lambda temporary: _write(temporary, rows, make()))
        for older in file.parent.glob(f"{file.name.partition('-')[0]}-*.npy"):
            if older != file:
                older.unlink(missing_ok=True)  # a process that maps it keeps it

    once(file, write, whole=lambda file: kept(file, rows) is not None)
    images = mapped_npy(file, rows)
    if images is None:
        raise Unwritable("another process has changed them")
    return images


def _write(path: Path, rows: int, images: Iterable[Tensor]) -> None:
    with path.open("wb", buffering=0) as file:
        written = RowFile(file)
        for image in images:
            if not written.shape[0] and rows * image.nbytes > shutil.disk_usage(path.parent).free:
                raise Unwritable(os.strerror(errno.ENOSPC))  # said before the work
            written.add(image)
        written.finish()


def _in_memory(rows: int, images: Iterator[Tensor]) -> Tensor:
    first = next(images)
    x = torch.empty((rows, *first.shape[1:]), dtype=first.dtype)
    x[0] = first[0]
    for row, image in enumerate(images, 1):
        x[row] = image[0]
    return x


def file_of(origin: str, files: Sequence[Path]) -> Path | None:
    """Return the file that keeps what is made of the files of a source as they are now:
    SOURCE-STATE.npy in the cache folder; None where there is no such folder.

    The state has each file's time of change, which no copy or archive sets: two versions of one
    size and date differ in it.
    """
    folder = cache_folder()
    if folder is None:
        return None
    state = hashlib.sha256()
    for path in files:
        state.update(repr((str(path), _state(path))).encode())
    source = hashlib.sha256(repr((_DECODER, origin)).encode()).hexdigest()
    return folder / f"{source[:32]}-{state.hexdigest()[:32]}.npy"


def _state(path: Path) -> tuple[int, ...]:
    try:
        now = path.stat()
    except OSError:  # a link that leads nowhere; who reads it says so
        return ()
    return now.st_size, now.st_mtime_ns, now.st_ctime_ns
