"""What stands in for the attacker's trigger, for rules that want to watch one."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp
from statistics import median
from typing import Literal

from torch import nn

from isthmus.curves.route import CURVE_TRAINING
from isthmus.data.dataset import Data
from isthmus.data.splits import Parts, at_most
from isthmus.defenses.inspection.found_triggers import (
    KINDS,
    Goal,
    Inverted,
    InvertedSuccess,
    Perturbation,
)
from isthmus.defenses.inspection.inversion import invert
from isthmus.defenses.unlearning.perturbations import (
    LARGEST,
    ODD,
    SURE,
    UniversalPerturbations,
    lost_perturbations,
    universal_perturbations,
)
from isthmus.defenses.unlearning.search import Found
from isthmus.defenses.unlearning.unlearn import FOLLOWED_BY, SHARE
from isthmus.defenses.unlearning.warps import FoundWarp, universal_warps
from isthmus.metrics.names import RECALIBRATED as RECALIBRATED
from isthmus.metrics.names import SPARSE as SPARSE
from isthmus.metrics.names import STAND_INS as STAND_INS
from isthmus.metrics.names import UNIVERSAL as UNIVERSAL
from isthmus.metrics.success import AttackSuccess
from isthmus.models.batchnorm import recalibrate, recalibrated_layers
from isthmus.models.view import copied
from isthmus.runs.notices import notice
from isthmus.training.budget import Training
from isthmus.training.suited import suited_augmentation
from isthmus.types import BadInput, Metric, Trigger

SEARCH_STEPS = 100
"""The gradients of the search for universal perturbations."""

REACH = 2.0
"""How many times as large a stand-in is at least as the smallest perturbation that works. Along a
curve that one is lost before the trigger that it stands in for, and one of `enlarged` size with it
or after it: docs/experiments.md."""


class NothingOdd(BadInput):
    """A network on which no universal perturbation stands in for a trigger."""

    def __init__(self) -> None:
        super().__init__(
            "no universal perturbation that is oddly small, so nothing tells whether a curve loses "
            "a trigger",
            expected="one that stands in for a trigger",
            fix="let repair choose another way",
        )


def stand_ins(tampered: nn.Module, fitted: Data, held_out: Data) -> dict[str, Metric]:
    """Return the defender's stand-in for the attack success rate: how well the oddest trigger still
    works.

    Patches and whole-image perturbations are inverted on the tampered network from the samples that
    train, one for each class and one that leads away from every class. The one that is smallest
    beside the median of its kind is applied to the held-out samples. For `repair(...,
    watch=stand_ins, rule=settled(STAND_INS))`. Source: ours; docs/results/rules.md has it with a
    smaller search. Raises BadInput for fewer than three classes.
    """
    goals = [*range(fitted.num_classes), "any"]
    gaps = []
    for kind in KINDS:
        triggers = invert(tampered, fitted, kind=kind, targets=goals)
        middle = median(trigger.score for trigger in triggers)
        gaps += [(middle - trigger.score, trigger) for trigger in triggers]
    _, oddest = max(gaps, key=lambda gap: gap[0])
    return {STAND_INS: InvertedSuccess(held_out, [oddest])}


def universal_stand_ins(
    tampered: nn.Module, fitted: Data, held_out: Data, training: Training = CURVE_TRAINING
) -> dict[str, Metric]:
    """Return a stand-in for the attack success rate that 100 gradients find: how well the oddest
    universal perturbations still work.

    They are found on the tampered network from the samples that train: fine, smooth and sparse
    ones, see `universal_perturbations`. They are applied to the held-out samples, `enlarged`, and
    the most successful counts: of those toward the suspect classes that are odd, where a fine or a
    smooth one is, and else of each kind that of the class which needs the smallest radius.

    `training` is that of a repair: the search has its batch size, seed, precision, device and the
    like, and its augmentation, or without one that of `suited_augmentation`. Source: ours;
    docs/experiments.md. Raises BadInput for fewer than two classes.
    """
    found = _perturbations(tampered, fitted, training)
    chosen = found.telling or list(enumerate(found.oddest))
    return {UNIVERSAL: _success(tampered, found, chosen, fitted, held_out)}


def odd_stand_ins(
    tampered: nn.Module, fitted: Data, held_out: Data, training: Training = CURVE_TRAINING
) -> dict[str, Metric]:
    """Return `universal_stand_ins` where a fine or a smooth one toward the suspect class is odd.

    Raises NothingOdd where none is: then they are no one's trigger, and nothing tells whether a
    curve has lost one.
    """
    found = _perturbations(tampered, fitted, training)
    if not found.telling:
        raise NothingOdd
    return {UNIVERSAL: _success(tampered, found, found.telling, fitted, held_out)}


def stand_ins_if_any(
    tampered: nn.Module, fitted: Data, held_out: Data, training: Training = CURVE_TRAINING
) -> dict[str, Metric]:
    """Return `odd_stand_ins`, or where none of them is odd the sparse perturbation that is very
    odd, by a name of its own, or nothing where there is no such thing.

    Where none is odd beyond doubt, a universal warp that is takes their place. A notice says to
    which class the oddest leads.
    """
    metrics = _odd_ones(tampered, fitted, held_out, training)
    oddest = odd_stand_in(metrics)
    if oddest is not None:
        notice(suspicion(oddest, fitted.names))
    return metrics


def _odd_ones(
    tampered: nn.Module, fitted: Data, held_out: Data, training: Training
) -> dict[str, Metric]:
    found = _perturbations(tampered, fitted, training)
    odd = found.telling or found.sparse_alone
    if all(found.oddness[place] < SURE for place in odd):
        warp = _odd_warp(tampered, fitted, training)
        if warp is not None:
            return {UNIVERSAL: _watched([warp], fitted, held_out)}
    if not odd:
        return {}
    name = UNIVERSAL if found.telling else SPARSE
    return {name: _success(tampered, found, odd, fitted, held_out)}


def _odd_warp(tampered: nn.Module, fitted: Data, training: Training) -> Inverted | None:
    """Return the warp toward the class that needs the smallest one, where it is odd beyond doubt,
    enlarged.
    """
    found = universal_warps(tampered, fitted, _search(tampered, fitted, training), share=SHARE)
    place = (0, found.suspect)
    if found.oddness[place] < SURE:
        return None
    trigger = FoundWarp(REACH * found.values[place].cpu())
    return _stand_in(tampered, found, place, trigger, "warp", fitted)


def watched_among(names: Container[str]) -> str | None:
    """Return the name that stand-ins for a trigger are watched by; None where there are none."""
    return next((name for name in (UNIVERSAL, SPARSE) if name in names), None)


def lost_stand_ins(
    tampered: nn.Module, beside: nn.Module, fitted: Data, training: Training
) -> list[Inverted]:
    """Return perturbations that turn the samples toward one class on the tampered network, and not
    on the one `beside` it, which a small change has made of it; none where no class is odd.

    A small change leaves ordinary perturbations what they are, and loses many backdoors, or part of
    them. So the class that is odd here is the attacker's, also where no perturbation is odd on the
    tampered network alone. That the change has lost all of the backdoor it does not say. Source:
    ours; docs/experiments.md.
    """
    search = _search(tampered, fitted, training)
    found = lost_perturbations(tampered, beside, fitted, search, share=SHARE)
    return _perturbing(tampered, found, dict.fromkeys(found.distinct, REACH), fitted)


def with_stand_ins(
    metrics: Mapping[str, Metric], added: Sequence[Inverted], parts: Parts
) -> dict[str, Metric]:
    """Return the metrics with more stand-ins among those that are watched."""
    both = [*_inverted_among(metrics), *added]
    watched = _watched(both, parts.fitted, parts.held_out)
    return {**without_stand_ins(metrics), UNIVERSAL: watched}


@dataclass(frozen=True)
class AfterRecalibration:
    """What a metric says of a copy whose BatchNorm statistics are those of the samples."""

    metric: Metric
    samples: Data

    def __call__(self, network: nn.Module) -> float:
        """Return the metric's value; the network stays as it is."""
        return self.metric(recalibrate(copied(network), self.samples))


def also_after_recalibration(
    metrics: Mapping[str, Metric], network: nn.Module, parts: Parts
) -> dict[str, Metric]:
    """Return the metrics with the stand-ins that are watched once more, after a recalibration:
    statistics alone can hide a backdoor, which then comes back with them (docs/experiments.md).

    As they are where nothing is watched, or the network has no statistics to recalibrate.
    """
    name, few = watched_among(metrics), at_most(parts.fitted, FOLLOWED_BY)
    if name is None or not recalibrated_layers(network):
        return dict(metrics)
    return {**metrics, RECALIBRATED: AfterRecalibration(metrics[name], few)}


def without_stand_ins(
    metrics: Mapping[str, Metric], targets: Container[Goal] | None = None
) -> dict[str, Metric]:
    """Return the metrics but the stand-ins that are watched, or those toward some classes."""
    others = dict[str, Metric]()
    for name, metric in metrics.items():
        if name not in (UNIVERSAL, SPARSE, RECALIBRATED):
            others[name] = metric
        elif targets is not None and isinstance(metric, InvertedSuccess):
            left = [each for each in metric.inverted if each.target not in targets]
            if left:
                others[name] = replace(metric, inverted=left)
    return others


@dataclass(frozen=True)
class Suspect:
    """The classes that the oddest stand-ins lead to, whether they are so odd that there is no doubt
    (`SURE`), and what turns images toward them.

    `by_step` are those that are known by what a small step along a curve loses.
    """

    targets: tuple[int, ...]
    sure: bool
    by: Literal["perturbations", "warps"] = "perturbations"
    by_step: tuple[int, ...] = ()

    def without(self, targets: Container[int]) -> Suspect | None:
        """Return the others of the suspect classes, in doubt where a step told of none of them;
        None where there are none.
        """
        left, told = (
            tuple(target for target in which if target not in targets)
            for which in (self.targets, self.by_step)
        )
        sure = self.sure and (bool(told) or not self.by_step)
        return replace(self, targets=left, by_step=told, sure=sure) if left else None


def toward_told(metrics: Mapping[str, Metric], suspect: Suspect) -> dict[str, Metric]:
    """Return the metrics without the stand-ins toward classes that are in doubt beside one that is
    known by a step: those may stand for no trigger, and stay.
    """
    told = suspect.by_step or suspect.targets
    doubtful = [target for target in suspect.targets if target not in told]
    return without_stand_ins(metrics, doubtful) if doubtful else dict(metrics)


def odd_stand_in(metrics: Mapping[str, Metric]) -> Inverted | None:
    """Return the oddest stand-in among the metrics; None where none of them is odd."""
    found = [each for each in _inverted_among(metrics) if -each.score >= ODD]
    return min(found, key=lambda each: each.score, default=None)


def suspect_of(metrics: Mapping[str, Metric]) -> Suspect | None:
    """Return the class that stand-ins among the metrics lead to, or all of which they leave no
    doubt; None where none of them is odd.
    """
    oddest = odd_stand_in(metrics)
    if oddest is None or oddest.target == "any":
        return None
    sure = {each.target for each in _inverted_among(metrics) if -each.score >= SURE}
    targets = sorted(target for target in sure or {oddest.target} if target != "any")
    by: Literal["perturbations", "warps"] = "warps" if oddest.kind == "warp" else "perturbations"
    return Suspect(tuple(targets), sure=bool(sure), by=by)


def _inverted_among(metrics: Mapping[str, Metric]) -> list[Inverted]:
    watched = [metrics[name] for name in (UNIVERSAL, SPARSE) if name in metrics]
    searched = [metric for metric in watched if isinstance(metric, InvertedSuccess)]
    return [each for metric in searched for each in metric.inverted]


def _watched(stand_ins: Sequence[Inverted], fitted: Data, held_out: Data) -> InvertedSuccess:
    """Return how well stand-ins work on the samples that were held out, or on those that trained
    where all held out are of a class that one leads to.
    """
    targets = {each.target for each in stand_ins}
    enough = all(bool((held_out.y != target).any()) for target in targets if target != "any")
    return InvertedSuccess(held_out if enough else fitted, stand_ins)


def suspicion(stand_in: Inverted, names: Sequence[str]) -> str:
    """Return what an odd stand-in says of the class that it leads to, in words.

    `names` are those of the classes.
    """
    times = exp(-stand_in.score)
    shown = f"{times:.2g}" if times < 10 else f"{times:,.0f}"
    where = "away from every class"
    if stand_in.target != "any":
        where = f"toward class {names[stand_in.target]}"
    doubt = "beyond doubt" if -stand_in.score >= SURE else "but not beyond doubt"
    size = f"a typical one is {shown} times as large"
    found = f"a small universal {stand_in.kind} turns images {where} ({size})"
    return f"{found}: a backdoor is suspected, {doubt}"


def enlarged(oddness: float) -> float:
    """Return how many times as large a stand-in is as its perturbation: as large as typical ones
    are, but `REACH` times as large at least and `LARGEST` times at most.

    >>> enlarged(0.0), round(enlarged(1.1), 2), enlarged(3.0)
    (2.0, 3.0, 4.0)
    """
    return min(max(REACH, exp(oddness)), LARGEST)


def _perturbations(tampered: nn.Module, fitted: Data, training: Training) -> UniversalPerturbations:
    search = _search(tampered, fitted, training)
    return universal_perturbations(tampered, fitted, search, share=SHARE)


def _search(tampered: nn.Module, fitted: Data, training: Training) -> Training:
    """Return the training of a repair as that of a search."""
    augment = training.augment or suited_augmentation(tampered, fitted)
    return training.replace(steps=SEARCH_STEPS, augment=augment)


def _success(
    tampered: nn.Module,
    found: UniversalPerturbations,
    chosen: list[tuple[int, int]],
    fitted: Data,
    held_out: Data,
) -> InvertedSuccess:
    """Return how well the perturbations of these kinds and classes work, `enlarged`."""
    times = {place: enlarged(float(found.oddness[place])) for place in chosen}
    return _watched(_perturbing(tampered, found, times, fitted), fitted, held_out)


def _perturbing(
    tampered: nn.Module,
    found: UniversalPerturbations,
    times: Mapping[tuple[int, int], float],
    fitted: Data,
) -> list[Inverted]:
    """Return the stand-ins of what was found for kinds and classes, enlarged by these factors."""
    return [
        _stand_in(
            tampered,
            found,
            place,
            Perturbation(factor * found.values[place].cpu()),
            "perturbation",
            fitted,
        )
        for place, factor in times.items()
    ]


def _stand_in(
    tampered: nn.Module,
    found: Found,
    place: tuple[int, int],
    trigger: Trigger,
    kind: Literal["perturbation", "warp"],
    fitted: Data,
) -> Inverted:
    """Return a trigger as the stand-in of what was found for a kind and a class."""
    _, target = place
    return Inverted(
        trigger,
        target,
        kind,
        size=float(found.radii[place]),
        score=-float(found.oddness[place]),
        success=AttackSuccess(fitted, trigger, target)(tampered),
    )
