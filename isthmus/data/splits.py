"""Parts of a data set: splits, samples held out, overlap between sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import combinations

import torch
from torch import Tensor

from isthmus.data.dataset import Data
from isthmus.data.mapped import pieces
from isthmus.runs.identity import bytes_of
from isthmus.runs.notices import notice
from isthmus.runs.wording import abbreviated, counted
from isthmus.types import BadInput


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
            f"parts of {list(sizes)} samples",
            expected=f"1 or more each, {len(data)} together",
            fix=f"pass sizes that add up to {len(data)} at most",
        )
    return [data[part] for part in split_rows(len(data), sizes, generator)]


def at_most(data: Data, n: int) -> Data:
    """Return n samples, drawn alike each time; all of them where there are no more."""
    return data if len(data) <= n else split(data, [n], torch.Generator().manual_seed(0))[0]


def split_rows(n: int, sizes: Sequence[int], generator: torch.Generator) -> list[Tensor]:
    """Return disjoint random parts of n rows, of the given sizes, n or less in all."""
    order = torch.randperm(n, generator=generator)[: sum(sizes)]
    assert len(order.unique()) == sum(sizes), "parts overlap"
    return list(order.split(list(sizes)))


def _pixels(data: Data, *, stored: bool) -> list[bytes]:
    """Return for each image what stands for its pixels: a hash of the bytes that are stored, or of
    the floats, which are equal whatever the types of two sets.
    """
    digests = []
    for rows in pieces(data.x):
        images = data.x[rows] if stored else data[rows].floats() + 0.0  # -0.0 is 0.0
        digests += [blake2b(bytes_of(image), digest_size=16).digest() for image in images]
    return digests


def among(data: Data, others: Data) -> Tensor:
    """Return for each image whether it is one of the others, pixel for pixel and whatever the
    labels, (n,) bool.
    """
    stored = data.x.dtype == others.x.dtype == torch.uint8
    known = set(_pixels(others, stored=stored))
    return torch.tensor([image in known for image in _pixels(data, stored=stored)])


def repeated(data: Data) -> Tensor:
    """Return for each image whether it has come before, (n,) bool.

    >>> x = torch.tensor([0.0, 1.0, 0.0]).view(3, 1, 1, 1)
    >>> repeated(Data(x, torch.tensor([0, 0, 1]), classes=2)).tolist()
    [False, False, True]
    """
    images = _pixels(data, stored=data.x.dtype == torch.uint8)
    first = {image: i for i, image in reversed(list(enumerate(images)))}
    return torch.tensor([first[image] != i for i, image in enumerate(images)])


def without_copies(data: Data, name: str) -> Data:
    """Return the samples without those whose image has come before, whatever their labels, with
    notice of how many of the samples of that name these are.
    """
    copies = repeated(data)
    if not bool(copies.any()):
        return data
    notice(f"{int(copies.sum())} of {len(data)} {name} samples repeat others; they count once")
    return data[~copies]


def check_disjoint(**parts: Data) -> None:
    """Raise BadInput where two of the named parts share an image, whatever its labels: one would
    give away the other.

    >>> whole = Data(torch.arange(4).view(4, 1, 1, 1) / 4, torch.tensor([0, 1, 0, 1]), 2)
    >>> check_disjoint(pool=whole[:1], bonafide=whole[1:2], evaluation=whole[2:])
    >>> check_disjoint(pool=whole[:2], bonafide=whole[1:2])
    Traceback (most recent call last):
    isthmus.types.BadInput: got 1 of 2 pool samples that are among the bonafide ones; expected ...
    """
    for (name, data), (other, others) in combinations(parts.items(), 2):
        shared = int(among(data, others).sum())
        if shared:
            raise BadInput(
                f"{shared} of {len(data)} {name} samples that are among the {other} ones",
                expected="disjoint data",
                fix="split them first: SET#n=500 and SET#skip=500",
            )


def classes_without_samples(data: Data) -> tuple[str, ...]:
    """Return the names of the classes that no sample belongs to.

    >>> classes_without_samples(Data(torch.zeros(2, 1, 1, 1), torch.tensor([0, 2]), 4))
    ('1', '3')
    """
    present = set(data.y.tolist())
    return tuple(name for label, name in enumerate(data.names) if label not in present)


def check_classes(data: Data) -> tuple[str, ...]:
    """Return the names of the classes without bonafide samples, and give notice of them.

    Such a class is neither trained nor measured, so a repair may lose it unseen. Raises BadInput
    where that goes for half of the classes or more.
    """
    missing = classes_without_samples(data)
    present = [name for name in data.names if name not in missing]
    if not missing or data.num_classes < 2:
        return ()
    if 2 * len(missing) >= data.num_classes:
        one = len(present) == 1
        raise BadInput(
            f"bonafide samples of {'one class' if one else f'{len(present)} classes'} only "
            f"({abbreviated(present)})",
            expected=f"samples of all {data.num_classes} classes",
            fix=f"collect some of the others: {abbreviated(missing)}",
        )
    notice(
        f"no bonafide sample of {len(missing)} of {data.num_classes} classes "
        f"({abbreviated(missing)}): what a repair does to them cannot be seen"
    )
    return missing


# Below this a held-out part would neither measure anything nor be spared: 20 % of 100 samples is an
# interval of +-15 points.
_ENOUGH_TO_HOLD_OUT = 100


HOLDOUT = 0.2
"""The share of the bonafide samples that is held out where nothing else is said."""


def hold_out(data: Data, share: float, seed: int) -> tuple[Data, Data]:
    """Return the part that trains and the part that measures: disjoint, or the same where there are
    too few samples.

    Raises BadInput where there are fewer samples than classes, or the share is not in [0, 1).

    >>> data = Data(torch.zeros(200, 1, 2, 2), torch.arange(200) % 10, classes=10)
    >>> [[len(part) for part in hold_out(some, 0.2, seed=0)] for some in (data, data[:50])]
    [[160, 40], [50, 50]]
    """
    if len(data) < data.num_classes:
        raise BadInput(
            f"{counted(len(data), 'bonafide sample', 'bonafide samples')} for "
            f"{counted(data.num_classes, 'class', 'classes')}",
            expected="one sample per class or more; a few hundred in all to choose with confidence",
            fix="collect more trusted samples",
        )
    if not 0 <= share < 1:
        raise BadInput(
            f"holdout {share}",
            expected="0 <= holdout < 1",
            fix="pass the share to keep for the choice",
        )
    held = round(share * len(data))
    if len(data) <= _ENOUGH_TO_HOLD_OUT or not held:
        return data, data
    fitted, measured = split(data, [len(data) - held, held], torch.Generator().manual_seed(seed))
    return fitted, measured


@dataclass(frozen=True, eq=False)
class Parts:
    """Bonafide samples, split once: `fitted` trains, `held_out` measures and trains nothing.

    The two are the same where there are too few samples to hold any out. `missing` names the
    classes without samples. Make one with `Parts.of`.
    """

    whole: Data
    fitted: Data
    held_out: Data
    missing: tuple[str, ...] = ()

    @classmethod
    def of(cls, data: Data, share: float = HOLDOUT, *, seed: int = 0) -> Parts:
        """Return the parts that `hold_out` makes; see `check_classes` for classes without samples.

        Raises BadInput as both do.
        """
        fitted, held_out = hold_out(data, share, seed)
        return cls(data, fitted, held_out, check_classes(data))

    @property
    def disjoint(self) -> bool:
        """Whether samples were held out."""
        return self.held_out is not self.fitted

    @property
    def share(self) -> float:
        """The share of the samples that is held out; 0 where all of them train."""
        return len(self.held_out) / len(self.whole) if self.disjoint else 0.0
