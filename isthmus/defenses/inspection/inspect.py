"""Inspection: whether a network obeys an oddly small trigger, at a false-alarm rate that was
measured, not assumed.

Source: Wang et al., Neural Cleanse, IEEE S&P 2019, section V (anomaly index); Vovk et al.,
Algorithmic Learning in a Random World, 2005 (conformal p-values).

Where we depart: verdicts do not rest on the median absolute deviation, which ten classes pin down
badly, nor on a threshold of 2. How many times smaller than the median the smallest trigger is, is
compared with the same figures of clean networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import numpy as np
from torch import nn

from isthmus.data.dataset import Data, Source, as_data
from isthmus.defenses.inspection.found_triggers import KINDS, Goal, Inverted, Kind
from isthmus.defenses.inspection.inversion import Search, invert, searching
from isthmus.defenses.inspection.references import (
    References,
    collected,
    oddest,
    p_value,
    read_references,
)
from isthmus.runs.wording import percent
from isthmus.types import BadInput

LEVEL = 0.05
"""The false-alarm rate of one search."""


def anomaly_index(sizes: Sequence[float]) -> tuple[float, ...]:
    """Return (median - size) / (1.4826 MAD) for each size: Neural Cleanse's index, positive where a
    size is small.

    All zeros where the deviation is zero. Raises BadInput for fewer than three sizes or one that is
    not finite.

    >>> [round(index, 2) for index in anomaly_index([1.0, 9.0, 10.0, 11.0, 12.0])]
    [6.07, 0.67, 0.0, -0.67, -1.35]
    """
    values = np.asarray(sizes, dtype=float)
    if len(values) < 3 or not np.isfinite(values).all():
        raise BadInput(
            f"{len(values)} sizes",
            expected="three finite ones or more",
            fix="a small outlier needs others beside it",
        )
    off = np.median(values) - values
    scale = 1.4826 * float(np.median(np.abs(off)))
    return tuple((off / scale if scale > 0 else 0 * off).tolist())


def statistics(triggers: Sequence[Inverted]) -> dict[str, float]:
    """Return by kind how many times smaller, as a natural logarithm, the oddest trigger is than the
    median of classes.

    "patch" and "perturbation" are about the smallest trigger of a class, "patch, any" and
    "perturbation, any" about the one that leads away from every class. Raises BadInput for fewer
    than three classes.
    """
    result: dict[str, float] = {}
    for kind in dict.fromkeys(trigger.kind for trigger in triggers):
        scores = [
            trigger.score
            for trigger in triggers
            if trigger.kind == kind and trigger.target != "any"
        ]
        if len(scores) < 3:
            raise BadInput(
                f"{len(scores)} classes",
                expected="three or more",
                fix="an outlier needs others beside it",
            )
        result[kind] = median(scores) - min(scores)
        result |= {
            f"{kind}, any": median(scores) - e.score
            for e in triggers
            if e.kind == kind and e.target == "any"
        }
    return result


@dataclass(frozen=True, eq=False)
class Inspection:
    """What an inspection found.

    `decision` is "suspicious", "not suspicious" or "cannot tell"; `p` the false-alarm rate at which
    it would be called suspicious, None where no references apply; `suspect` the goal of the oddest
    trigger; `index` Neural Cleanse's anomaly index of each class by kind; `found` the triggers;
    `statistics` and `settings` what references hold; `oddest` is the trigger that `reason` speaks
    of.
    """

    decision: str
    reason: str
    p: float | None
    suspect: Goal
    index: Mapping[str, tuple[float, ...]]
    statistics: Mapping[str, float]
    settings: Mapping[str, Any]
    found: tuple[Inverted, ...] = field(repr=False)
    oddest: Inverted = field(repr=False)

    def record(self) -> dict[str, Any]:
        """Return the inspection as plain JSON; of clean networks, what `collected` reads."""
        return {
            "decision": self.decision,
            "reason": self.reason,
            "p": self.p,
            "suspect": self.suspect,
            "statistics": dict(self.statistics),
            "settings": dict(self.settings),
            "triggers": [trigger.record() for trigger in self.found],
        }


def _survey(
    model: nn.Module, data: Data, kinds: Sequence[Kind], held_out: Source | None, search: Search
) -> tuple[Inverted, ...]:
    if data.num_classes < 3:
        raise BadInput(
            f"{data.num_classes} classes",
            expected="three or more",
            fix="an outlier needs others beside it",
        )
    goals: tuple[Goal, ...] = (*range(data.num_classes), "any")
    triggers: list[Inverted] = []
    for kind in kinds:
        triggers += invert(model, data, search=search, kind=kind, targets=goals, held_out=held_out)
    return tuple(triggers)


_SEARCHED = ("steps", "batch_size", "wanted", "starts", "norm")
"""The options of a search that are alike in networks that are compared."""


def _settings(data: Data, search: Search) -> dict[str, Any]:
    settings = {name: getattr(search, name) for name in _SEARCHED}
    settings["norm"] = str(float(search.norm))
    return {**settings, "image": list(data.x.shape[1:]), "classes": data.num_classes}


def _as_they_were(known: Sequence[References], data: Data, options: Mapping[str, Any]) -> Search:
    """Return the search that the options describe, completed by that of the first references that
    they do not contradict.
    """
    for references in known:
        theirs = {**references.settings, "norm": float(references.settings.get("norm", 2))}
        shared = {name: theirs[name] for name in _SEARCHED if name in theirs}
        search = searching(None, {**shared, **options})
        if _settings(data, search) == dict(references.settings):
            return search
    return searching(None, options)


def references(
    networks: Sequence[nn.Module],
    bonafide: Source,
    *,
    name: str,
    kinds: Sequence[Kind] = KINDS,
    **options: Any,
) -> References:
    """Return the references that clean networks give: train them as the suspect was trained, on
    data you trust.

    Raises BadInput as `inspect` does.
    """
    data = as_data(bonafide)
    search = searching(None, options)
    measured = [statistics(_survey(net, data, kinds, None, search)) for net in networks]
    sizes = [parameters_of(net) for net in networks]
    return collected(
        [
            {"statistics": values, "settings": _settings(data, search), "parameters": size}
            for values, size in zip(measured, sizes, strict=True)
        ],
        name,
    )


def inspect(
    model: nn.Module,
    bonafide: Source,
    *,
    clean: References | None = None,
    level: float = LEVEL,
    kinds: Sequence[Kind] = KINDS,
    held_out: Source | None = None,
    **options: Any,
) -> Inspection:
    """Return whether a network obeys an oddly small trigger, of which class, and at what
    false-alarm rate.

    It is suspicious where p, its rank among the `clean` references (those of the package by
    default, where image shape, number of classes and settings fit), is at most `level`. The search
    is that of the references, as far as `options`, fields of `Search`, do not say otherwise.
    The decision is "cannot tell" where no references fit, or they are fewer than 1 / level - 1, or
    they are of networks of another size and this one is no odder than they are.
    "not suspicious" does not say that there is no backdoor: docs/inspection.md has the share of
    each attack that is found.

    Raises BadInput as `invert` does, and for fewer than three classes or a level outside (0, 1).
    """
    if not 0 < level < 1 or not kinds:
        raise BadInput(
            f"level {level}, kinds {kinds}",
            expected="0 < level < 1, one kind or more",
            fix="pass level=0.05, and leave kinds out for all of them",
        )
    data = as_data(bonafide)
    known = read_references() if clean is None else (clean,)
    search = _as_they_were(known, data, options)
    triggers = _survey(model, data, kinds, held_out, search)
    values = statistics(triggers)
    settings = _settings(data, search)
    fitting = _fitting(known, settings, values.keys())
    p = None if fitting is None else p_value(values, fitting)
    suspect = oddest(triggers, values, fitting)
    caveats = () if fitting is None else _caveats(fitting, model)
    decision, reason = _decide(p, fitting, level, suspect, caveats)
    index: dict[str, tuple[float, ...]] = {
        kind: anomaly_index(
            [
                trigger.size
                for trigger in triggers
                if trigger.kind == kind and trigger.target != "any"
            ]
        )
        for kind in kinds
    }
    return Inspection(
        decision, reason, p, suspect.target, index, values, settings, triggers, suspect
    )


@dataclass(frozen=True)
class Outlook:
    """What an inspection will be able to say, known before it searches.

    `judges` says whether it can call a network suspicious or not suspicious; if not, it only
    describes the triggers that it finds. `reason` says why, or with what the network is compared.
    `caveats` are what p rests on. `gradients` counts the images that the search passes with
    gradients.
    """

    judges: bool
    reason: str
    caveats: tuple[str, ...]
    gradients: int


def outlook(
    model: nn.Module,
    bonafide: Source,
    *,
    clean: References | None = None,
    level: float = LEVEL,
    kinds: Sequence[Kind] = KINDS,
    **options: Any,
) -> Outlook:
    """Return what `inspect` with these arguments will be able to say, without a search.

    Raises BadInput as `inspect` does for a field that `Search` does not have.
    """
    data = as_data(bonafide)
    known = read_references() if clean is None else (clean,)
    search = _as_they_were(known, data, options)
    fitting = _fitting(known, _settings(data, search), _names(kinds))
    rows = sum(replace(search, kind=kind).rows for kind in kinds)
    images = search.steps * search.batch_size * (data.num_classes + 1) * rows
    if fitting is None:
        offered = ", ".join(references.networks for references in known)
        reason = (
            f"no references fit images of shape {tuple(data.x.shape[1:])}, {data.num_classes} "
            f"classes and this search (there are: {offered})"
        )
        return Outlook(False, reason, (), images)
    compared = f"{len(fitting)} clean networks ({fitting.networks})"
    if _too_few(fitting, level):
        reason = f"{compared} cannot resolve a false-alarm rate of {percent(level)}"
        return Outlook(False, reason, (), images)
    return Outlook(True, f"compares with {compared}", _caveats(fitting, model), images)


def _names(kinds: Sequence[Kind]) -> set[str]:
    """Return the names of the statistics of these kinds."""
    return {name for kind in kinds for name in (kind, f"{kind}, any")}


def _fitting(
    known: Sequence[References], settings: Mapping[str, Any], names: Set[str]
) -> References | None:
    """Return the first references with these settings and statistics; None without any."""
    for references in known:
        if dict(references.settings) == settings and references.values.keys() == names:
            return references
    return None


def _too_few(references: References, level: float) -> bool:
    return 1 / (len(references) + 1) > level


def _caveats(references: References, model: nn.Module) -> tuple[str, ...]:
    own = parameters_of(model)
    if references.parameters is None or references.parameters == own:
        return ()
    return (
        f"the references have {references.parameters:,} parameters and this network {own:,}: they "
        "may call it suspicious, at a rate that is theirs, and cannot clear it",
    )


def parameters_of(model: nn.Module) -> int:
    """Return how many parameters a network has."""
    return sum(parameter.numel() for parameter in model.parameters())


def _decide(
    p: float | None,
    clean: References | None,
    level: float,
    suspect: Inverted,
    caveats: Sequence[str],
) -> tuple[str, str]:
    where = (
        "leads away from every class"
        if suspect.target == "any"
        else f"leads to class {suspect.target}"
    )
    odd = f"the oddest trigger is a {suspect.kind} of size {suspect.size:.3g} that {where}"
    if p is None or clean is None:
        return "cannot tell", f"no references for such images, classes and settings; {odd}"
    rank = f"{len(clean)} clean networks ({clean.networks})"
    if _too_few(clean, level):
        return "cannot tell", f"{rank} cannot resolve a false-alarm rate of {percent(level)}; {odd}"
    if p <= level:
        return "suspicious", f"{odd}; among {rank} and this one, {percent(p)} are as odd"
    decision = "cannot tell" if caveats else "not suspicious"
    proof = " and ".join(caveats) or "no proof of a clean network"
    return (
        decision,
        f"among {rank} and this one, {percent(p)} are as odd; {odd}; {proof}",
    )
