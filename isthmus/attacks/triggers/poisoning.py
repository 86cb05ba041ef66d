"""Poisoned training sets.

Source: Gu et al., BadNets, 2017; Barni et al., ICIP 2019 (clean labels); Nguyen and Tran, WaNet,
ICLR 2021 (cover samples).

Where we depart from the papers' code: images whose true class is already the target are not
relabeled, the all-targets shift runs modulo the number of classes, and triggers act on [0, 1]
before normalization.
"""

from __future__ import annotations

import torch
from torch import Tensor

from isthmus.data.dataset import Data
from isthmus.data.mapped import gathered, pieces
from isthmus.metrics.success import Target, eligible, target_of
from isthmus.types import BadInput, Trigger


def changed(clean: Data, poisoned: Data) -> Tensor:
    """Return which samples an attacker has touched, (n,) bool: another image, another label, or
    both.

    The absolute numbers of an attack are sums over it. Raises BadInput where the sets are not of
    one size and kind.

    >>> clean = Data(torch.zeros(4, 1, 4, 4), torch.tensor([0, 0, 1, 1]), classes=2)
    >>> changed(clean, Data(clean.x, torch.tensor([0, 1, 1, 1]), classes=2)).tolist()
    [False, True, False, False]
    """
    if clean.x.shape != poisoned.x.shape or clean.x.dtype != poisoned.x.dtype:
        raise BadInput(
            f"{tuple(poisoned.x.shape)} {poisoned.x.dtype} after "
            f"{tuple(clean.x.shape)} {clean.x.dtype}",
            expected="a set and its poisoned copy",
            fix="compare the two sets in their original order",
        )
    parts = pieces(clean.x)
    images = [(clean.x[rows] != poisoned.x[rows]).flatten(1).any(1) for rows in parts]
    return torch.cat(images) | (clean.y != poisoned.y)


def _shares(
    data: Data, pool: Tensor, rate: float, generator: torch.Generator, of: Tensor | None = None
) -> Tensor:
    """Return a random `rate` of each class within the pool of indices; `rate` of the class in `of`
    where given.
    """
    chosen = [pool[:0]]
    for label in data.y[pool].unique():
        members = pool[data.y[pool] == label]
        whole = len(members) if of is None else int((data.y[of] == label).sum())
        members = members[torch.randperm(len(members), generator=generator)]
        chosen.append(members[: round(rate * whole)])
    return torch.cat(chosen)


def _check_counts(chosen: Tensor, rate: float, what: str) -> None:
    if rate > 0 and not len(chosen):
        raise BadInput(
            f"{what} {rate:g}, no sample of any class",
            expected="one sample or more to change",
            fix="raise the rate, or take more data",
        )


def poison(
    data: Data,
    trigger: Trigger,
    *,
    rate: float,
    target: Target,
    generator: torch.Generator,
    clean_label: bool = False,
    cover: float = 0.0,
    cover_trigger: Trigger | None = None,
) -> Data:
    """Return the training set of an attacker: a share `rate` of each non-target class triggered and
    relabeled.

    With `clean_label` it is a share `rate` of the target class that is triggered, and every label
    stays (SIG). With `cover`, that share of each class, among the samples not poisoned, gets
    `cover_trigger` and keeps its label (WaNet). Each number is the share of its class, rounded;
    `changed` counts them. The order of the samples stays.

    Raises BadInput where rate or cover is not in [0, 1], a rate above zero rounds to no sample at
    all, a cover comes without its trigger or the other way round, poisoned and cover samples are
    more than there are, or clean labels are asked for with target "all".
    """
    for name, share in (("poison rate", rate), ("cover", cover)):
        if not 0 <= share <= 1:
            raise BadInput(
                f"{name} {share}", expected=f"0 <= {name} <= 1", fix="pass a share such as 0.1"
            )
    if bool(cover) != (cover_trigger is not None):
        raise BadInput(
            f"cover = {cover} and cover_trigger = {cover_trigger}",
            expected="both or none",
            fix="pass both, or leave both out",
        )
    pool = eligible(data, target)
    if clean_label:
        if target == "all":
            raise BadInput(
                "clean labels with target 'all'",
                expected="one target class",
                fix="pass a class index",
            )
        pool = (data.y == target).nonzero().squeeze(1)
    index = _shares(data, pool, rate, generator)
    _check_counts(index, rate, "poison rate")
    x = gathered((data.x[rows] for rows in pieces(data.x)), like=data.x)
    y = data.y.clone()
    if len(index):
        there = data[index]
        x[index] = there.changed(trigger).x
        y[index] = there.y if clean_label else target_of(there.y, target, data.num_classes)
    if cover_trigger is not None:
        covered = _cover(data, index, cover, generator)
        x[covered] = data[covered].changed(cover_trigger).x
    return Data(x, y, data.classes)


def _cover(data: Data, poisoned: Tensor, cover: float, generator: torch.Generator) -> Tensor:
    """Return the indices of a share `cover` of each class, none of them poisoned."""
    everything = torch.arange(len(data))
    left = everything[~torch.isin(everything, poisoned)]
    covered = _shares(data, left, cover, generator, of=everything)
    wanted = sum(round(cover * int(n)) for n in data.y.bincount())
    if len(covered) < wanted:
        raise BadInput(
            f"{len(poisoned)} poisoned and {wanted} cover samples",
            expected=f"no more than there are in each class, {len(data)} together",
            fix="lower the poison rate or cover",
        )
    _check_counts(covered, cover, "cover")
    return covered
