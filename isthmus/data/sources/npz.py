"""Arrays in npz files, read and written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from isthmus.data.dataset import Data
from isthmus.data.sources.reading import Classes, damaged, with_classes
from isthmus.runs.files import write_atomically
from isthmus.types import BadInput


# ---- npz
def arrays_of(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of a file by name. Raises BadInput where it is damaged or holds objects."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # zip, zlib and numpy raise errors of their own on damage
        if "allow_pickle" in str(error) or "Object arrays" in str(error):
            raise BadInput(
                f"{path}, which holds Python objects and not only numbers",
                expected="plain arrays: objects could run code and are not loaded",
                fix="save x as uint8 or float and y as int64",
            ) from error
        raise damaged(path, error, ".npz") from error


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
    arrays = arrays_of(path)
    pair = next(
        (p for p in (("x", "y"), ("images", "labels")) if p[0] in arrays and p[1] in arrays), None
    )
    if pair is None:
        raise BadInput(
            f"{path} with the arrays {', '.join(sorted(arrays)) or '(none)'}",
            expected="x and y, or images and labels: one set a file",
            fix="save each split on its own, np.savez('train.npz', x=x_train, y=y_train)",
        )
    layout = str(arrays["layout"]).lower() if "layout" in arrays else None
    x = channels_first(path, arrays[pair[0]], layout)
    y = arrays[pair[1]]
    if y.dtype.kind not in "iuf":
        raise BadInput(
            f"{path} with labels of type {y.dtype}",
            expected="int64",
            fix="number the classes from 0",
        )
    try:
        images = torch.from_numpy(np.ascontiguousarray(x, x.dtype.newbyteorder("=")))
    except TypeError as error:
        raise BadInput(
            f"{path} with images of type {x.dtype}", expected="uint8 or float", fix="convert x"
        ) from error
    labels = torch.from_numpy(y.astype(np.float64 if y.dtype.kind == "f" else np.int64))
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    return with_classes(
        images, labels, classes, _names(path, arrays["classes"]) if "classes" in arrays else None
    )


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
