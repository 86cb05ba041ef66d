"""Images beyond memory: rows in a file that is mapped, read as they are looked at.

A mapped tensor is an ordinary one. What was read of it lies in the system's cache of files, which
gives it back when memory is short; what is written to it is the process's own and never reaches the
file.
"""

from __future__ import annotations

import io
import math
import mmap
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import numpy as np
import torch
from torch import Tensor

from isthmus.runs.identity import bytes_of
from isthmus.runs.notices import notice
from isthmus.runs.wording import first_line

IN_MEMORY = 2**28
"""Bytes that one set of images takes in memory, 1,783 color images of 224x224; larger ones that
are made of others go to a file.
"""

PART = 2**26  # bytes of a part, where there are several
_START = 128  # bytes before the rows, for the header of .npy


def cache_folder() -> Path | None:
    """Return where decoded images are kept: ISTHMUS_CACHE, else isthmus in XDG_CACHE_HOME or
    ~/.cache; None without a home.
    """
    if os.environ.get("ISTHMUS_CACHE"):
        return Path(os.environ["ISTHMUS_CACHE"])
    with suppress(RuntimeError):  # no home
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "isthmus"
    return None


def _pages(file: IO[bytes]) -> mmap.mmap:
    """Map a file so that what is written stays in the process.

    Linux refuses such a map of a file larger than memory, all of which might be written, unless it
    is told to reserve nothing.
    """
    if sys.platform == "win32":
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    unreserved = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)
    flags = mmap.MAP_PRIVATE | unreserved  # Python names the second one from 3.13 on
    return mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)


def _mapped(file: IO[bytes], shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(_pages(file), dtype=dtype, count=math.prod(shape), offset=_START).view(
        shape
    )


class Unwritable(Exception):
    """A file that cannot take its rows, and why."""


class RowFile:
    """Rows of one shape and type, which an unbuffered file takes one part after another.

    Raises Unwritable where the file cannot take them, RuntimeError where they differ.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.shape: tuple[int, ...] = (0,)
        self.dtype = torch.uint8
        self._write(memoryview(bytes(_START)))

    def add(self, rows: Tensor) -> None:
        """Write some more rows (n, ...)."""
        count, *shape = rows.shape
        if not self.shape[0]:
            self.shape, self.dtype = (0, *shape), rows.dtype
        if (*self.shape[1:], self.dtype) != (*shape, rows.dtype):
            raise RuntimeError(
                f"images of shape {tuple(shape)} and type {rows.dtype} after "
                f"{self.shape[1:]} and {self.dtype}"
            )
        self._write(bytes_of(rows))
        self.shape = (self.shape[0] + count, *shape)

    def _write(self, content: memoryview) -> None:
        """Write bytes, and not through a map of the file: on a full disk that would be a crash."""
        try:
            while content:
                content = content[self.file.write(content) :]
        except OSError as error:
            raise Unwritable(first_line(error)) from error

    def finish(self) -> None:
        """Write the header that makes the file an .npy file; the rows are bytes."""
        header = io.BytesIO()
        held = {"descr": "|u1", "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(header, held)
        assert len(header.getvalue()) == _START
        self.file.seek(0)
        self._write(header.getbuffer())

    def mapped(self) -> Tensor:
        """Return the rows so far."""
        return _mapped(self.file, self.shape, self.dtype)


def mapped_npy(path: Path, rows: int) -> Tensor | None:
    """Return the images of a file that `RowFile` finished; None where the file is another one, is
    not whole, or holds another number of images.

    Raises OSError where there is none.
    """
    with path.open("rb") as file:
        try:
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        except ValueError:
            return None
        size = os.fstat(file.fileno()).st_size
        whole = file.tell() == _START and size == _START + math.prod(shape)
        if dtype != np.uint8 or len(shape) != 4 or shape[0] != rows or not whole:
            return None
        return _mapped(file, shape, torch.uint8)


def gathered(
    parts: Iterable[Tensor], *, like: Tensor | None = None, most: int | None = None
) -> Tensor:
    """Return the parts (n, ...) one after another as a new tensor, as torch.cat does.

    Beyond `most` bytes, by default IN_MEMORY, the rows lie in a file in the cache folder, which has
    no name and goes with the tensor. Where that cannot be written they stay in memory, and a notice
    says so. `like` is a tensor of the size that the new one will have: a large one goes to its file
    from the start.

    >>> gathered(iter([torch.zeros(2, 1), torch.ones(1, 1)])).tolist()
    [[0.0], [0.0], [1.0]]
    """
    held: list[Tensor] = []
    size = 0
    remaining = iter(parts)
    if like is not None and _large(like, like.nbytes, most):
        return _spilled(held, remaining)
    for part in remaining:
        held.append(part)
        size += part.nbytes
        if _large(part, size, most):
            return _spilled(held, remaining)
    return torch.cat(held)


def _large(x: Tensor, size: int, most: int | None = None) -> bool:
    return size > (IN_MEMORY if most is None else most) and x.device.type == "cpu"


def _spilled(held: list[Tensor], remaining: Iterator[Tensor]) -> Tensor:
    """Move what is held to a file without a name, and write the remaining rows after it."""
    with ExitStack() as opened:
        rows = None
        try:
            rows = RowFile(opened.enter_context(_nameless_file()))
            while held := held or list(islice(remaining, 1)):
                rows.add(held[0])
                del held[0]
            return rows.mapped()
        except Unwritable as error:
            notice(f"no file for what takes much memory ({error}): memory holds it")
            written = [rows.mapped()] if rows is not None and rows.shape[0] else []
            return torch.cat([*written, *held, *remaining])


def _nameless_file() -> IO[bytes]:
    """Open a file in the cache folder that is gone when it is closed and no tensor maps it."""
    folder = cache_folder()
    try:
        if folder is None:
            raise FileNotFoundError("there is no home folder")
        folder.mkdir(parents=True, exist_ok=True)
        return TemporaryFile(buffering=0, dir=folder)
    except OSError as error:
        raise Unwritable(first_line(error)) from error


def pieces(x: Tensor) -> Iterator[slice]:
    """Yield slices that make up the rows of x: one where x as float32 takes IN_MEMORY bytes or
    less, else many small ones.
    """
    row = 4 * x.shape[1:].numel()
    step = len(x) if len(x) * row <= IN_MEMORY else max(1, PART // row)
    yield from (slice(first, first + step) for first in range(0, len(x), step))


def picked(x: Tensor, index: Tensor | slice) -> Tensor:
    """Return x[index]; where a tensor names rows of more than IN_MEMORY bytes, as `gathered`."""
    if not isinstance(index, Tensor) or index.ndim != 1:
        return x[index]
    rows = index.nonzero().squeeze(1) if index.dtype == torch.bool else index
    if not _large(x, len(rows) * x.shape[1:].numel() * x.element_size()):
        return x[index]
    return _spilled([], (x[part] for part in rows.split(max(1, PART // x[0].nbytes))))
