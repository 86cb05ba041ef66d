"""Images and labels in memory, and every way to get them there.

`Data` is the only form the library works on; `as_data` turns what users have (a torch Dataset, a DataLoader, a pair
of tensors) into it, and `load_data` what they have on disk or can name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from isthmus.types import BadInput, sha256_of

MOST_CLASSES = 10**6


@dataclass(frozen=True, eq=False)
class Data:
    """Labelled images: x (n, c, h, w) uint8, or float in [0, 1]; y (n,) int64 in 0 .. classes - 1.

    `classes` is a count or the names of the classes, and is kept as names.
    Raises BadInput where shapes, types, ranges or labels are off, or there is nothing.

    >>> data = Data(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]), classes=2)
    >>> len(data), data.classes, data.num_classes
    (2, ('0', '1'), 2)
    """

    x: Tensor
    y: Tensor
    classes: Sequence[str] | int

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", _names(self.classes))
        for name, value in (("x", self.x), ("y", self.y)):
            if not isinstance(value, Tensor):
                raise BadInput(f"{name} of type {type(value).__name__}", expected="a tensor", fix="use as_data((x, y))")
        _check_images(self.x)
        _check_labels(self.y, len(self.x), self.num_classes)
        object.__setattr__(self, "y", self.y.long())

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Tensor | slice) -> Data:
        """Return the samples at the given indices."""
        return Data(self.x[index], self.y[index], self.classes)

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.classes)  # type: ignore[arg-type]

    @cached_property
    def sha256(self) -> str:
        """Hash of images, labels and their types and shapes: the same data, the same hash."""
        return sha256_of(self.x, self.y, torch.tensor(self.num_classes))

    def floats(self) -> Tensor:
        """Return the images as float32 in [0, 1], shape (n, c, h, w)."""
        return self.x.float() / 255 if self.x.dtype == torch.uint8 else self.x.float()

    def with_floats(self, x: Tensor, y: Tensor | None = None) -> Data:
        """Return data of the same kind (uint8 stays uint8) with new images, given as floats, and new labels.

        Raises BadInput where the images leave [0, 1].
        """
        _check_images(x)  # before the rounding to bytes, which would wrap around
        x = (x * 255).round().to(torch.uint8) if self.x.dtype == torch.uint8 else x.to(self.x.dtype)
        return Data(x, self.y if y is None else y, self.classes)


Source = Data | Iterable[Any] | tuple[Tensor, Tensor]
"""Whatever `as_data` takes: Data, a torch Dataset or DataLoader of (x, y), or a pair of tensors (x, y)."""


def _check_images(x: Tensor) -> None:
    if x.ndim != 4 or not (x.dtype == torch.uint8 or x.is_floating_point()):
        raise BadInput(
            f"images of shape {tuple(x.shape)} and type {x.dtype}",
            expected="shape (n, channels, height, width), uint8 or floating point",
            fix="stack single images, put channels first",
        )
    if x.numel() == 0:
        raise BadInput("no images", expected="one sample or more", fix="check the path or the split")
    if x.is_floating_point():
        low, high = float(x.min()), float(x.max())
        if not (low >= 0 and high <= 1):  # also refuses NaN
            raise BadInput(
                f"inputs from {low:.4g} to {high:.4g}",
                expected="values in [0, 1]",
                fix="divide 0..255 images by 255; put normalisation into the network as its first layer",
            )


def _check_labels(y: Tensor, samples: int, classes: int) -> None:
    if y.ndim != 1 or len(y) != samples:
        raise BadInput(f"labels of shape {tuple(y.shape)}", expected=f"shape ({samples},)", fix="one label a sample")
    if y.is_complex() or (y.is_floating_point() and not bool((y == y.long()).all())):  # also NaN and infinity
        raise BadInput("labels that are not whole numbers", expected="class indices", fix="pass int64 labels")
    low, high = int(y.long().min()), int(y.long().max())
    if low < 0 or high >= classes:
        raise BadInput(
            f"labels from {low} to {high}",
            expected=f"0 to {classes - 1} for {classes} classes",
            fix="relabel from 0, or say how many classes there are",
        )


def _as_image(x: Any) -> Tensor:
    """Return what is no tensor yet as one: a PIL image, (h, w) or (h, w, c), gets its channels first; else as it is."""
    array = np.array(x)
    if hasattr(x, "getbands"):  # what makes it a PIL image, without importing PIL
        array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return torch.as_tensor(array)


def _gather(items: Iterable[Any]) -> tuple[Tensor, Tensor]:
    """Collect (x, y) pairs, single samples or whole batches, until they end."""
    mapped: Any = items if hasattr(items, "__getitem__") and hasattr(items, "__len__") else None
    xs, ys = [], []
    # A map-style dataset need not end by itself.
    for x, y in items if mapped is None else (mapped[i] for i in range(len(mapped))):
        x, y = x if isinstance(x, Tensor) else _as_image(x), torch.as_tensor(y)
        xs.append(x if x.ndim == 4 else x[None])
        ys.append(y.reshape(-1))
    if not xs:
        raise BadInput("an empty data set", expected="pairs (x, y)", fix="check the path or the split")
    return torch.cat(xs), torch.cat(ys)


def _names(classes: Sequence[str] | int) -> tuple[str, ...]:
    """Return the names of the classes; they tell classes apart in every record."""
    if isinstance(classes, int):
        if classes > MOST_CLASSES:
            raise BadInput(
                f"{classes} classes", expected=f"{MOST_CLASSES} or fewer", fix="check the labels: one of them is huge"
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
    """Return how many classes the labels need, 1 or more, whatever they are: to refuse them is up to Data."""
    return max(1, int(y.long().max()) + 1) if y.numel() and not y.is_complex() else 1


def as_data(source: Source, classes: Sequence[str] | int | None = None) -> Data:
    """Return Data from Data, a torch Dataset or DataLoader of (x, y), or a pair (x, y), read once into memory.

    `classes` defaults to the source's own (`.classes`, as torchvision's sets carry), else to the highest label + 1.
    Raises BadInput where the samples are not images with labels.

    >>> as_data((torch.zeros(3, 1, 2, 2), torch.tensor([0, 2, 1]))).num_classes
    3
    """
    if isinstance(source, Data):
        return source
    try:
        x, y = (torch.as_tensor(part) for part in source) if isinstance(source, tuple) else _gather(source)
    except BadInput:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadInput(
            f"a {type(source).__name__} that does not yield images with labels ({str(error).partition(chr(10))[0]})",
            expected="pairs (x, y) of one image shape",
            fix="pass Data(x, y, classes), or a Dataset or DataLoader of (tensor, int)",
        ) from error
    held: Any = source
    while hasattr(held, "dataset"):  # a DataLoader of a Subset of a set that knows its classes
        held = held.dataset
    known = (classes, getattr(held, "classes", None), _count(y))
    return Data(x, y, next(each for each in known if each is not None))


def split(data: Data, sizes: Sequence[int], generator: torch.Generator) -> list[Data]:
    """Return disjoint random parts of the given sizes.

    Raises BadInput where they ask for more samples than there are.

    >>> data = Data(torch.zeros(10, 1, 2, 2), torch.arange(10), classes=10)
    >>> a, b = split(data, [7, 3], torch.Generator().manual_seed(0))
    >>> sorted(torch.cat([a.y, b.y]).tolist()) == list(range(10))
    True
    """
    if min(sizes) < 1 or sum(sizes) > len(data):
        raise BadInput(
            f"parts of {list(sizes)} samples", expected=f"1 or more each, {len(data)} together", fix="ask for fewer"
        )
    order = torch.randperm(len(data), generator=generator)[: sum(sizes)]
    assert len(order.unique()) == sum(sizes), "parts overlap"
    return [data[part] for part in order.split(list(sizes))]


def _pixels(data: Data) -> list[bytes]:
    return [image.tobytes() for image in data.floats().cpu().numpy()]


def among(data: Data, others: Data) -> Tensor:
    """Return for each image whether it is one of the others, pixel for pixel and whatever the labels, (n,) bool."""
    known = set(_pixels(others))
    return torch.tensor([image in known for image in _pixels(data)])


def repeated(data: Data) -> Tensor:
    """Return for each image whether it has come before, (n,) bool.

    >>> repeated(Data(torch.tensor([0.0, 1.0, 0.0]).view(3, 1, 1, 1), torch.tensor([0, 0, 1]), 2)).tolist()
    [False, False, True]
    """
    images = _pixels(data)
    first = {image: i for i, image in reversed(list(enumerate(images)))}
    return torch.tensor([first[image] != i for i, image in enumerate(images)])


def check_disjoint(**parts: Data) -> None:
    """Raise BadInput where two of the named parts share an image, whatever its labels: one would give away the other.

    >>> whole = Data(torch.arange(4).view(4, 1, 1, 1) / 4, torch.tensor([0, 1, 0, 1]), 2)
    >>> check_disjoint(pool=whole[:1], bonafide=whole[1:2], evaluation=whole[2:])
    >>> check_disjoint(pool=whole[:2], bonafide=whole[1:2])
    Traceback (most recent call last):
    isthmus.types.BadInput: got 1 of 2 pool samples that are among the bonafide ones; expected disjoint data; ...
    """
    for (name, data), (other, others) in combinations(parts.items(), 2):
        shared = int(among(data, others).sum())
        if shared:
            raise BadInput(
                f"{shared} of {len(data)} {name} samples that are among the {other} ones",
                expected="disjoint data",
                fix="split them first: SET#n=500 and SET#skip=500",
            )


# Below this a held-out part would neither measure anything nor be spared: 20 % of 100 samples is an interval of
# +-15 points.
_ENOUGH_TO_HOLD_OUT = 100


def hold_out(data: Data, share: float, seed: int) -> tuple[Data, Data]:
    """Return the part that trains and the part that measures: disjoint, or the same where there are too few samples.

    Raises BadInput where there are fewer samples than classes, or the share is not in [0, 1).

    >>> data = Data(torch.zeros(200, 1, 2, 2), torch.arange(200) % 10, classes=10)
    >>> [len(part) for part in hold_out(data, 0.2, seed=0)], [len(part) for part in hold_out(data[:50], 0.2, seed=0)]
    ([160, 40], [50, 50])
    """
    if len(data) < data.num_classes:
        raise BadInput(
            f"{len(data)} bonafide samples for {data.num_classes} classes",
            expected="one sample per class at the least; a few hundred in all to choose with confidence",
            fix="collect more trusted samples",
        )
    if not 0 <= share < 1:
        raise BadInput(f"holdout {share}", expected="0 <= holdout < 1", fix="pass the share to keep for the choice")
    held = round(share * len(data))
    if len(data) <= _ENOUGH_TO_HOLD_OUT or not held:
        return data, data
    fitted, measured = split(data, [len(data) - held, held], torch.Generator().manual_seed(seed))
    return fitted, measured


@dataclass(frozen=True)
class Augment:
    """Random shift by up to `pad` pixels (zeros move in) and random horizontal flip, for whole batches of any type.

    Raises BadInput where pad is negative, and, when called, where a shift would leave nothing of the image.
    """

    pad: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        if self.pad < 0:
            raise BadInput(f"pad = {self.pad}", expected="0 or more pixels", fix="pass pad=4, or 0 for no shift")

    def __call__(self, x: Tensor) -> Tensor:
        """Return x (n, c, h, w), each sample moved on its own, by draws from the global generator."""
        n, _, h, w = x.shape
        if self.pad >= min(h, w):
            raise BadInput(f"pad = {self.pad} for {h}x{w} images", expected="less than their size", fix="lower pad")
        top, left = torch.randint(0, 2 * self.pad + 1, (2, n, 1))
        rows, columns = top + torch.arange(h), left + torch.arange(w)
        if self.flip:
            columns = torch.where(torch.rand(n, 1) < 0.5, columns.flip(1), columns)
        padded = F.pad(x, (self.pad,) * 4).permute(0, 2, 3, 1)
        moved = padded[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
        return moved.permute(0, 3, 1, 2)
