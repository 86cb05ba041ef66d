"""Labeled images, in memory or mapped from a file.

`Data` is the only form the library works on; `as_data` turns what users have (a torch Dataset, a
DataLoader, a pair of tensors) into it, and `load_data` what they have on disk or can name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isnan
from typing import Any

import numpy as np
import torch
from torch import Tensor

from isthmus.data.alike import in_one
from isthmus.data.mapped import gathered, picked, pieces
from isthmus.data.pixels import pixels_of
from isthmus.runs.identity import sha256_of
from isthmus.runs.wording import first_line
from isthmus.types import BadInput

MOST_CLASSES = 10**6


@dataclass(frozen=True, eq=False)
class Data:
    """Labeled images: x (n, c, h, w) uint8, or float in [0, 1]; y (n,) int64 in 0 .. classes - 1.

    `classes` is a count or the names of the classes, and is kept as names.
    Raises BadInput where shapes, types, ranges or labels are off, or there is nothing.

    >>> data = Data(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]), classes=2)
    >>> len(data), data.classes, data.num_classes
    (2, ('0', '1'), 2)
    >>> data
    Data(n=2, shape=(1, 8, 8), dtype=float32, classes=2: '0', '1')
    """

    x: Tensor
    y: Tensor
    classes: Sequence[str] | int

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", _names(self.classes))
        for name, value in (("x", self.x), ("y", self.y)):
            if not isinstance(value, Tensor):
                raise BadInput(
                    f"{name} of type {type(value).__name__}",
                    expected="a tensor",
                    fix="use as_data((x, y))",
                )
        _check_images(self.x)
        _check_labels(self.y, len(self.x), self.num_classes)
        object.__setattr__(self, "y", self.y.long())

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        kind = str(self.x.dtype).removeprefix("torch.")
        names = ", ".join(map(repr, self.names[:3])) + (", ..." if self.num_classes > 3 else "")
        count = f"classes={self.num_classes}: {names}"
        return f"Data(n={len(self)}, shape={tuple(self.x.shape[1:])}, dtype={kind}, {count})"

    def __getitem__(self, index: Tensor | slice) -> Data:
        """Return the samples at the given indices."""
        return Data(picked(self.x, index), self.y[index], self.classes)

    @property
    def names(self) -> Sequence[str]:
        """The names of the classes."""
        return self.classes  # type: ignore[return-value]

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.names)

    @cached_property
    def sha256(self) -> str:
        """Hash of images, labels and their types and shapes: the same data, the same hash."""
        return sha256_of(self.x, self.y, torch.tensor(self.num_classes))

    def floats(self) -> Tensor:
        """Return the images as float32 in [0, 1], shape (n, c, h, w)."""
        return self.x.float() / 255 if self.x.dtype == torch.uint8 else self.x.float()

    def with_floats(self, x: Tensor, y: Tensor | None = None) -> Data:
        """Return data of the same kind (uint8 stays uint8) with new images, given as floats, and
        new labels.

        Raises BadInput where the images are no floats, or leave [0, 1].
        """
        if not x.is_floating_point():
            raise BadInput(
                f"changed images of type {x.dtype}",
                expected="floating point numbers in [0, 1]",
                fix="return floats, as they were given",
            )
        _check_images(x)  # before the rounding to bytes, which would wrap around
        x = (x * 255).round().to(torch.uint8) if self.x.dtype == torch.uint8 else x.to(self.x.dtype)
        return Data(x, self.y if y is None else y, self.classes)

    def changed(self, change: Callable[[Tensor], Tensor], y: Tensor | None = None) -> Data:
        """Return data of the same kind with what `change`, a trigger, makes of the images as
        floats, and new labels; large data are changed one part after another.

        Raises BadInput as `with_floats` does, and where what comes back is no image of that shape.
        """

        def remade(part: Data) -> Tensor:
            images = part.floats()
            return part.with_floats(_of_shape(change(images), images)).x

        x = gathered((remade(self[rows]) for rows in pieces(self.x)), like=self.x)
        return Data(x, self.y if y is None else y, self.classes)


Source = Data | Iterable[Any] | tuple[Tensor, Tensor]
"""Whatever `as_data` takes: Data, a torch Dataset or DataLoader of (x, y), or a pair of tensors (x,
y).
"""


def _of_shape(made: Tensor, x: Tensor) -> Tensor:
    """Return what a change made of images, if it is images of their shape. Raises BadInput."""
    if isinstance(made, Tensor) and made.shape == x.shape:
        return made
    got = f"shape {tuple(made.shape)}" if isinstance(made, Tensor) else f"a {type(made).__name__}"
    raise BadInput(
        f"a trigger that makes {got} of images of shape {tuple(x.shape)}",
        expected="images of the same shape",
        fix="return the changed images, in [0, 1]",
    )


def _check_images(x: Tensor) -> None:
    if x.ndim != 4 or not (x.dtype == torch.uint8 or x.is_floating_point()):
        raise BadInput(
            f"images of shape {tuple(x.shape)} and type {x.dtype}",
            expected="shape (n, channels, height, width), uint8 or floating point",
            fix="stack single images, put channels first",
        )
    if x.numel() == 0:
        raise BadInput(
            "no images", expected="one sample or more", fix="check the path or the split"
        )
    if x.is_floating_point():
        low, high = float(x.min()), float(x.max())
        if isnan(low):
            sample = int(x.argmin()) // x[0].numel()  # NaN counts as the least value
            raise BadInput(
                f"inputs with NaN, first in sample {sample}",
                expected="values in [0, 1]",
                fix="leave such samples out, or compute them again",
            )
        if not (low >= 0 and high <= 1):
            raise BadInput(
                f"inputs from {low:.4g} to {high:.4g}",
                expected="values in [0, 1]",
                fix="divide 0..255 images by 255; put normalization into the network as its first "
                "layer",
            )


def _check_labels(y: Tensor, samples: int, classes: int) -> None:
    if y.ndim != 1 or len(y) != samples:
        raise BadInput(
            f"labels of shape {tuple(y.shape)}",
            expected=f"shape ({samples},)",
            fix="pass one label for each sample",
        )
    if y.is_complex() or (
        y.is_floating_point() and not bool((y == y.long()).all())
    ):  # also NaN and infinity
        raise BadInput(
            "labels that are not whole numbers", expected="class indices", fix="pass int64 labels"
        )
    low, high = int(y.long().min()), int(y.long().max())
    if low < 0 or high >= classes:
        raise BadInput(
            f"labels from {low} to {high}",
            expected=f"0 to {classes - 1} for {classes} classes",
            fix="relabel from 0, or say how many classes there are (classes)",
        )


def _as_image(x: Any) -> Tensor:
    """Return what is not a tensor yet as one: a PIL image gray or in RGB, channels first; anything
    else as it is.
    """
    is_image = hasattr(x, "getbands")  # of PIL, without importing it
    return torch.as_tensor(pixels_of(x).copy() if is_image else np.array(x))


def _gather(items: Iterable[Any]) -> tuple[Tensor, Tensor]:
    """Collect (x, y) pairs, single samples or whole batches, until they end."""
    indexed: Any = items if hasattr(items, "__getitem__") and hasattr(items, "__len__") else None
    ys: list[Tensor] = []

    def images() -> Iterator[Tensor]:
        # A map-style dataset need not end by itself.
        for x, y in items if indexed is None else (indexed[i] for i in range(len(indexed))):
            image = x if isinstance(x, Tensor) else _as_image(x)
            ys.append(torch.as_tensor(y).reshape(-1))
            yield image if image.ndim == 4 else image[None]

    return in_one(images()), torch.cat(ys)


def _names(classes: Sequence[str] | int) -> tuple[str, ...]:
    """Return the names of the classes; they tell classes apart in every record."""
    if isinstance(classes, int):
        if classes > MOST_CLASSES:
            raise BadInput(
                f"{classes} classes",
                expected=f"{MOST_CLASSES} or fewer",
                fix="check the labels: one of them is huge",
            )
        return tuple(map(str, range(classes)))
    names = tuple(classes)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise BadInput(
            f"{len(names)} classes, of which several are called {twice[0]!r}",
            expected="a name of its own for every class",
            fix="rename them, or pass their number",
        )
    return names


def _count(y: Tensor) -> int:
    """Return how many classes the labels need, 1 or more; `Data` refuses those that are none."""
    return max(1, int(y.long().max()) + 1) if y.numel() and not y.is_complex() else 1


def as_data(source: Source, classes: Sequence[str] | int | None = None) -> Data:
    """Return Data from Data, a torch Dataset or DataLoader of (x, y), or a pair (x, y), read once.

    Whatever yields pairs will do, a stream of Hugging Face `datasets` too: ((row["image"],
    row["label"]) for row in stream). Gray images are put in color where others are. Images of more
    than 256 MB in all are kept in a file.
    `classes` defaults to the source's own (`.classes`, as torchvision's sets carry), else to the
    highest label + 1. Raises BadInput where the samples are not images with labels.

    >>> as_data((torch.zeros(3, 1, 2, 2), torch.tensor([0, 2, 1]))).num_classes
    3
    """
    if isinstance(source, Data):
        return source
    try:
        x, y = (
            (torch.as_tensor(part) for part in source)
            if isinstance(source, tuple)
            else _gather(source)
        )
    except BadInput:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadInput(
            f"a {type(source).__name__} that does not yield images with labels "
            f"({first_line(error)})",
            expected="pairs (x, y) of one image shape",
            fix="pass Data(x, y, classes), or a Dataset or DataLoader of (tensor, int)",
        ) from error
    held: Any = source
    while hasattr(held, "dataset"):  # a DataLoader of a Subset of a set that knows its classes
        held = held.dataset
    if classes is None:
        classes = getattr(held, "classes", None)
    return Data(x, y, _count(y) if classes is None else classes)
