"""Arrays in npz files, read and written."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray
from torch import Tensor

from isthmus.data import mapped
from isthmus.data.dataset import Data
from isthmus.data.sources.reading import Classes, damaged, with_classes
from isthmus.runs.files import write_atomically
from isthmus.types import BadInput


# ---- npz
@contextmanager
def opened(path: Path) -> Iterator[NpzFile]:
    """Open a file whose arrays are read by name, one at a time.

    Raises BadInput where it is damaged or holds objects, also while it is read.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            yield file
    except BadInput:
        raise
    except Exception as error:  # zip, zlib and numpy raise errors of their own on damage
        if "allow_pickle" in str(error) or "Object arrays" in str(error):
            raise BadInput(
                f"{path}, which holds Python objects and not only numbers",
                expected="plain arrays: objects could run code and are not loaded",
                fix="save x as uint8 or float and y as int64",
            ) from error
        raise damaged(path, error, ".npz") from error


def images_in(path: Path, file: NpzFile, name: str) -> Tensor:
    """Return the array of images of an opened file, (n, c, h, w), in this machine's byte order.

    It is read in parts: beyond IN_MEMORY bytes the images lie in a file and not in memory
    (`gathered`). Mapping the archive itself would pass over its sums, and in most archives floats
    do not lie where processors want them. Raises BadInput where images have no known layout or
    type.
    """
    layout = str(file["layout"]).lower() if "layout" in file.files else None

    def tensor(part: NDArray[Any]) -> Tensor:
        x = channels_first(path, part, layout)
        try:
            return torch.from_numpy(np.ascontiguousarray(x, x.dtype.newbyteorder("=")))
        except TypeError as error:
            raise BadInput(
                f"{path} with images of type {x.dtype}",
                expected="uint8 or float",
                fix="convert x",
            ) from error

    return mapped.gathered(tensor(part) for part in _parts(path, file, name, layout))


def _parts(path: Path, file: NpzFile, name: str, layout: str | None) -> Iterator[NDArray[Any]]:
    """Yield the rows of an array in parts of PART bytes, or all at once where they are stored by
    columns. The last part is yielded once the array's sum is known to be right.
    """
    assert file.zip is not None
    member = name if name in file.zip.namelist() else f"{name}.npy"
    with file.zip.open(member) as stream:
        shape, by_columns, dtype = _header(stream)
        if by_columns or dtype.hasobject or not shape:
            yield file[name]
            return
        row = dtype.itemsize * math.prod(shape[1:])
        if file.zip.getinfo(member).file_size != stream.tell() + shape[0] * row:
            raise ValueError(f"{name} does not have the size that its shape says")
        channels_first(path, np.broadcast_to(np.zeros((), dtype), shape), layout)  # or refused
        step = max(1, mapped.PART // max(1, row))
        for first in range(0, max(1, shape[0]), step):
            count = min(step, shape[0] - first)
            held = bytearray(stream.read(count * row))
            if first + count == shape[0] and stream.read(1):  # where the sum is compared
                raise ValueError(f"{name} is longer than its shape says")
            yield np.ndarray((count, *shape[1:]), dtype, held)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, whether values are stored by columns, and type of an array in .npy form."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    return np.lib.format.read_array_header_2_0(stream)


def channels_first(path: Path, x: NDArray[Any], layout: str | None) -> NDArray[Any]:
    """Return images (n, h, w), (n, h, w, c) or (n, c, h, w) as the last.

    Without a layout, channels are the last axis where that has 4 values at most and the first has
    more. Raises BadInput where both readings make sense: many channels of a few pixels, as of
    satellites, or a few channels of a narrow image.
    """
    if x.ndim == 3:
        return x[:, None]
    if x.ndim != 4 or layout not in (None, "nchw", "nhwc"):
        raise BadInput(
            f"{path} with images of shape {x.shape}" + (f" and layout {layout}" if layout else ""),
            expected="(n, c, h, w) or (n, h, w, c)",
            fix="reshape x" if x.ndim != 4 else "write 'nchw' or 'nhwc'",
        )
    _, first, second, last = x.shape
    if layout is None and first > 4 >= last:
        if second == last != first:
            raise BadInput(
                f"{path} with images of shape {x.shape}, channels first or last",
                expected="a layout that can be told",
                fix=f"add layout='nchw' for {first} channels, or 'nhwc' for {last}, to np.savez",
            )
        layout = "nhwc"
    return x.transpose(0, 3, 1, 2) if layout == "nhwc" else x


def read_npz(path: Path, classes: Classes) -> Data:
    """Return the arrays x and y, or images and labels, of a file.

    `classes` in it is a count or the names; `layout` is "nchw" or "nhwc".
    """
    with opened(path) as file:
        pair = next((p for p in (("x", "y"), ("images", "labels")) if {*p} <= {*file.files}), None)
        if pair is None:
            raise BadInput(
                f"{path} with the arrays {', '.join(sorted(file.files)) or '(none)'}",
                expected="x and y, or images and labels: one set a file",
                fix="save each split on its own, np.savez('train.npz', x=x_train, y=y_train)",
            )
        images = images_in(path, file, pair[0])
        y = file[pair[1]]
        said = _names(path, file["classes"]) if "classes" in file.files else None
    if y.dtype.kind not in "iuf":
        raise BadInput(
            f"{path} with labels of type {y.dtype}",
            expected="int64",
            fix="number the classes from 0",
        )
    labels = torch.from_numpy(y.astype(np.float64 if y.dtype.kind == "f" else np.int64))
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    return with_classes(images, labels, classes, said)


def _names(path: Path, held: NDArray[Any]) -> list[str] | int:
    """Return the entry `classes`: names, or a count. Raises BadInput where it is neither."""
    if held.ndim == 1:
        return [str(name) for name in held]
    if held.ndim == 0 and held.dtype.kind in "iuf" and np.isfinite(held) and held == int(held) > 0:
        return int(held)
    raise BadInput(
        f"{path} with classes {str(held)[:50]!r}",
        expected="how many there are, or their names",
        fix="write classes=10, or classes=['cat', 'dog'], one for each label from 0",
    )


def npz_path(path: Path | str) -> Path:
    """Return the path. Raises BadInput where it is not named .npz."""
    path = Path(path)
    if path.suffix != ".npz":
        raise BadInput(
            f"{path}",
            expected="a file name that ends in .npz",
            fix=f"write {path.with_suffix('.npz')}",
        )
    return path


def save_npz(data: Data, path: Path | str) -> Path:
    """Write data as an .npz file that `load_data` reads, whole or not at all, and return the path.

    Raises BadInput where the file cannot be written or is not named .npz.
    """
    path = npz_path(path)
    x = data.x.float() if data.x.dtype == torch.bfloat16 else data.x  # numpy has no bfloat16

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(
                file,
                x=x.cpu().numpy(),
                y=data.y.cpu().numpy(),
                classes=np.array(data.classes, dtype=np.str_),
            )

    return write_atomically(path, write)
