"""Trigger inversion: the smallest trigger that a network obeys, class by class, and whether one is oddly small.

Source: Wang et al., Neural Cleanse, IEEE S&P 2019, sections IV and V (mask and pattern, weight of the mask's norm,
anomaly index); Moosavi-Dezfooli et al., CVPR 2017 (universal perturbations), here targeted. p-value: Vovk et al.,
Algorithmic Learning in a Random World, 2005 (conformal prediction).

Where we depart:
- Masks start nearly closed (5 %), not half open. From a half open mask the search ends in a natural feature of the
  target class and misses a small patch that the network obeys (measured on the digits: size 10.0 against 3.2).
- A mask is searched from several starts, and the smallest that succeeds is kept: a single one misses a patch that
  the network obeys in about every other case (docs/inspection.md).
- All classes are searched in one batch, each with a weight or radius of its own; samples of the target class neither
  drive the search nor count. The whole-image perturbation's ball shrinks and grows in place of a weight.
- Besides one trigger per class, one is sought that leads every image away from its own class ("any"): what a backdoor
  that sends each class elsewhere obeys, where no single class has a small trigger.
- Verdicts do not rest on the median absolute deviation, which ten classes pin down badly, nor on a threshold of 2. How
  many times smaller than the median the smallest trigger is, is compared with the same figures of clean networks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from math import inf, log, sqrt
from pathlib import Path
from statistics import median
from typing import Any, Literal, Protocol, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from isthmus.data import Data, Source, as_data
from isthmus.engine import Precision, as_input, autocast, device_of, frozen, pass_size, takes_channels_last
from isthmus.files import read_json
from isthmus.metrics import Accuracy, AttackSuccess, Rate, logits
from isthmus.progress import bar
from isthmus.train import batch_indices
from isthmus.triggers import eligible
from isthmus.types import BadInput, Trigger, percent

Kind = Literal["patch", "perturbation"]
Goal = int | Literal["any"]
"""Where a trigger leads: a class, or "any", away from the image's own class."""
KINDS: tuple[Kind, ...] = ("patch", "perturbation")

STEPS, BATCH, WANTED, STARTS = 300, 32, 0.99, 3  # of `invert`, which references have to share
_WINDOW = 5  # steps over which success is counted before weight or radius changes
_OPEN, _SPREAD = -3.0, 0.5  # logit of a mask at the start; deviation of the starts
_MASK_LR, _DELTA_LR, _BETAS = 0.3, 0.02, (0.5, 0.9)
_WEIGHT_FACTOR, _RADIUS_FACTOR = 1.5, 1.1


# ---- triggers


@dataclass(frozen=True, eq=False)
class MaskedPattern:
    """A trigger (1 - mask) x + mask pattern; mask (1, h, w) and pattern (c, h, w), both in [0, 1]."""

    mask: Tensor
    pattern: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Return the changed images. Raises BadInput where the pattern does not fit them."""
        _check_fits(self.pattern, x)
        return torch.lerp(x, self.pattern.to(x).expand_as(x), self.mask.to(x).expand_as(x))


@dataclass(frozen=True, eq=False)
class Perturbation:
    """A trigger x + delta, cut off at 0 and 1; delta (c, h, w)."""

    delta: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Return the changed images. Raises BadInput where delta does not fit them."""
        _check_fits(self.delta, x)
        return (x + self.delta.to(x)).clamp(0, 1)


def _check_fits(pattern: Tensor, x: Tensor) -> None:
    if pattern.shape != x.shape[1:]:
        raise BadInput(
            f"a trigger found on images of shape {tuple(pattern.shape)}",
            expected=f"one for {tuple(x.shape[1:])}",
            fix="invert on images of this shape",
        )


@dataclass(frozen=True, eq=False)
class Inverted:
    """A trigger that was found for one goal.

    `size` is the L1 norm of a mask in pixels, or the norm of a perturbation; `score` the natural logarithm of its share
    of the largest possible size, 0 where no trigger reached the wanted success: the lower, the odder. `success` is the
    share of samples, none of the target class, that it leads to the goal.
    """

    trigger: Trigger
    target: Goal
    kind: Kind
    size: float
    score: float
    success: Rate

    def on(self, data: Source) -> _Question:
        """Return the question how often this trigger reaches its goal on the data, a metric that gives a Rate."""
        return _question(data, self.trigger, self.target)


@dataclass(frozen=True, eq=False)
class Misled:
    """Share of triggered samples that are not predicted as their own class, as a Rate."""

    data: Source = field(repr=False)
    trigger: Trigger
    precision: Precision = "fp32"
    asked: Data = field(init=False)

    def __post_init__(self) -> None:
        data = as_data(self.data)
        object.__setattr__(self, "asked", data.with_floats(self.trigger(data.floats())))

    def __call__(self, model: nn.Module) -> Rate:
        """Return the share of samples that the trigger leads away from their class."""
        right = Accuracy(self.asked, self.precision)(model)
        return Rate(right.n - right.hits, right.n)


_Question = Misled | AttackSuccess


def _question(data: Source, trigger: Trigger, target: Goal) -> _Question:
    return Misled(data, trigger) if target == "any" else AttackSuccess(data, trigger, target)


# ---- the search


class Search(TypedDict, total=False):
    """The keyword options of `invert` that set the search, for functions that hand them on."""

    steps: int
    batch_size: int
    wanted: float
    starts: int
    norm: float
    seed: int
    precision: Precision


class _Family(Protocol):
    """Triggers of one kind, g searches at once, and how hard each is pressed to be small."""

    lr: float
    leaves: list[Tensor]
    largest: float

    def on(self, x: Tensor) -> Tensor: ...  # (n, c, h, w) to (g, n, c, h, w)
    def sizes(self) -> Tensor: ...  # (g,)
    def penalty(self) -> Tensor: ...  # (g,)
    def press(self, won: Tensor) -> None: ...
    def project(self) -> None: ...
    def triggers(self, leaves: Sequence[Tensor]) -> Iterator[Trigger]: ...


class _Masks:
    """Mask and pattern, each the sigmoid of a free tensor; pressed by a weight on the mask's L1 norm."""

    lr = _MASK_LR

    def __init__(self, starts: Tensor) -> None:
        self.leaves = [leaf.clone().requires_grad_() for leaf in (_OPEN + starts[:, :1], starts)]
        self.largest = float(starts[0, 0].numel())
        self.weight = starts.new_full((len(starts),), 1 / self.largest)  # the whole image costs one nat

    def on(self, x: Tensor) -> Tensor:
        mask, pattern = (leaf.sigmoid()[:, None] for leaf in self.leaves)
        return x + mask * (pattern - x)

    def sizes(self) -> Tensor:
        return self.leaves[0].sigmoid().flatten(1).sum(1)

    def penalty(self) -> Tensor:
        return self.weight * self.sizes()

    def press(self, won: Tensor) -> None:
        self.weight = torch.where(won, self.weight * _WEIGHT_FACTOR, self.weight / _WEIGHT_FACTOR)

    def project(self) -> None:
        """Any value of the free tensors is allowed."""

    def triggers(self, leaves: Sequence[Tensor]) -> Iterator[Trigger]:
        for mask, pattern in zip(*(leaf.sigmoid().cpu() for leaf in leaves), strict=True):
            yield MaskedPattern(mask, pattern)


class _Balls:
    """One perturbation per goal, held in a ball; pressed by the ball's radius, unless that is given."""

    lr = _DELTA_LR

    def __init__(self, starts: Tensor, norm: float, radius: float | None) -> None:
        self.leaves = [(_DELTA_LR * starts).requires_grad_()]
        self.norm, self.free = norm, radius is None
        self.largest = 1.0 if norm == inf else sqrt(starts[0].numel())
        self.radius = starts.new_full((len(starts),), self.largest / 2 if radius is None else radius)
        self.project()

    def on(self, x: Tensor) -> Tensor:
        return (x + self.leaves[0][:, None]).clamp(0, 1)

    def sizes(self) -> Tensor:
        norms: Tensor = torch.linalg.vector_norm(self.leaves[0].flatten(1), self.norm, dim=1)
        return norms

    def penalty(self) -> Tensor:
        return torch.zeros_like(self.radius)

    def press(self, won: Tensor) -> None:
        if self.free:
            sizes = self.sizes().detach()
            self.radius = torch.where(won, sizes / _RADIUS_FACTOR, sizes * _RADIUS_FACTOR)

    @torch.no_grad()
    def project(self) -> None:
        delta, radius = self.leaves[0], self.radius[:, None, None, None]
        if self.norm == inf:
            delta.copy_(torch.minimum(torch.maximum(delta, -radius), radius))
        else:
            delta.mul_((radius / self.sizes()[:, None, None, None].clamp_min(1e-12)).clamp(max=1))

    def triggers(self, leaves: Sequence[Tensor]) -> Iterator[Trigger]:
        for delta in leaves[0].cpu():
            yield Perturbation(delta)


def _wanted(y: Tensor, goals: Sequence[Goal], classes: int) -> Tensor:
    """Return which answers (g, n, classes) each goal wants for samples of the true classes y (n,)."""
    own = nn.functional.one_hot(y, classes).bool()
    each = torch.arange(classes, device=y.device)
    return torch.stack([~own if goal == "any" else (each == goal).expand_as(own) for goal in goals])


@dataclass
class _Best:
    """The best triggers so far, goal by goal, and the counts of the window that judges the next."""

    leaves: list[Tensor]
    merit: Tensor  # (g,), lower is better; inf where the wanted success was never reached
    size: Tensor
    hits: Tensor
    counted: Tensor

    @classmethod
    def of(cls, family: _Family) -> _Best:
        size = family.sizes().detach()
        leaves = [leaf.detach().clone() for leaf in family.leaves]
        return cls(leaves, torch.full_like(size, inf), size.clone(), torch.zeros_like(size), torch.zeros_like(size))

    def count(self, answers: Tensor, wanted: Tensor, counts: Tensor) -> None:
        self.hits += (wanted.gather(2, answers.argmax(2, keepdim=True)).squeeze(2) & counts).sum(1)
        self.counted += counts.sum(1)

    def judge(self, family: _Family, share: float, *, by_size: bool) -> Tensor:
        """Keep what is better than before; return which goals reached the wanted success."""
        success, size = self.hits / self.counted.clamp_min(1), family.sizes().detach()
        won = success >= share
        merit = torch.where(won, size, inf) if by_size else -success
        better = (merit < self.merit) | self.merit.isinf()  # until one succeeds, the last one stands
        for kept, leaf in zip(self.leaves, family.leaves, strict=True):
            kept[better] = leaf.detach()[better]
        self.merit, self.size = torch.where(better, merit, self.merit), torch.where(better, size, self.size)
        self.hits, self.counted = torch.zeros_like(self.hits), torch.zeros_like(self.counted)
        return won


def objective(answers: Tensor, wanted: Tensor, counts: Tensor) -> Tensor:
    """Return the mean of -log(probability of the wanted answers) over the samples that count, in nats, shape (g,).

    `answers` are logits (g, n, classes), `wanted` (g, n, classes) and `counts` (g, n) bool. For one wanted class it is
    the cross-entropy; for all classes but the image's own, the logarithm of how likely that one is not.
    """
    answers = answers.to(torch.promote_types(answers.dtype, torch.float32))
    nats = answers.logsumexp(2) - answers.masked_fill(~wanted, -inf).logsumexp(2)
    return torch.where(counts, nats, 0).sum(1) / counts.sum(1).clamp_min(1)


def _search(model: nn.Module, data: Data, goals: Sequence[Goal], family: _Family, options: _Options) -> _Best:
    """Minimise the objective plus the penalty for all goals at once, by Adam, and return the best that was seen."""
    device, last = device_of(model), takes_channels_last(model, data.x)
    optimizer = torch.optim.Adam(family.leaves, lr=family.lr, betas=_BETAS)
    best = _Best.of(family)
    with bar(f"inverting a {options.kind}", options.steps) as advance:
        for step in range(1, options.steps + 1):
            index = batch_indices(len(data), options.batch_size, step - 1, options.seed)
            x, y = as_input(data.x[index], device, channels_last=False), data.y[index].to(device)
            wanted = _wanted(y, goals, data.num_classes)
            counts = ~wanted.gather(2, y.expand(len(goals), -1)[..., None]).squeeze(2)  # not there already
            with autocast(device, options.precision):
                images = as_input(family.on(x).flatten(0, 1), device, channels_last=last)
                answers = model(images).unflatten(0, (len(goals), -1))
            value = objective(answers, wanted, counts) + family.penalty()
            for leaf, grad in zip(family.leaves, torch.autograd.grad(value.sum(), family.leaves), strict=True):
                leaf.grad = grad
            best.count(answers.detach(), wanted, counts)
            if step % _WINDOW == 0 or step == options.steps:
                family.press(best.judge(family, options.wanted, by_size=options.radius is None))
            optimizer.step()
            family.project()
            advance("")
    return best


@dataclass(frozen=True)
class _Options:
    """The options of `invert`, checked."""

    kind: Kind
    steps: int
    batch_size: int
    wanted: float
    starts: int
    norm: float
    radius: float | None
    seed: int
    precision: Precision

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise BadInput(f"kind {self.kind!r}", expected="patch or perturbation", fix="choose one")
        if min(self.steps, self.batch_size, self.starts) < 1 or not 0 < self.wanted <= 1:
            raise BadInput(
                f"steps = {self.steps}, batch_size = {self.batch_size}, starts = {self.starts}, wanted = {self.wanted}",
                expected="a budget above zero and a success in (0, 1]",
                fix="choose a budget",
            )
        if self.norm not in (2, inf) or (self.radius is not None and not 0 < self.radius < inf):
            raise BadInput(
                f"norm {self.norm}, radius {self.radius}",
                expected="norm 2 or inf, radius above zero",
                fix="choose them",
            )

    @property
    def rows(self) -> int:
        """How many searches a goal gets; the balls of perturbations lead to one place from anywhere."""
        return self.starts if self.kind == "patch" else 1

    def family(self, goals: int, shape: torch.Size, device: torch.device) -> _Family:
        """Return where the searches start, goal by goal: the same for every goal, whatever the others are."""
        generator = torch.Generator().manual_seed(self.seed)
        starts = torch.stack([_SPREAD * torch.randn(shape, generator=generator) for _ in range(self.rows)])
        starts = starts.repeat(goals, 1, 1, 1).to(device)
        return _Masks(starts) if self.kind == "patch" else _Balls(starts, self.norm, self.radius)


def _check_samples(model: nn.Module, data: Data, precision: Precision) -> None:
    if len(data.y.unique()) < 2:
        raise BadInput("samples of one class", expected="two classes or more", fix="pass samples of other classes too")
    if len(data) < data.num_classes:
        raise BadInput(
            f"{len(data)} samples for {data.num_classes} classes",
            expected="as many samples as classes, or more",
            fix="pass more bonafide samples",
        )
    if not torch.isfinite(logits(model, data, precision)).all():
        raise BadInput("outputs that are NaN or infinite", expected="finite logits", fix="check the weights and inputs")


def invert(
    model: nn.Module,
    bonafide: Source,
    *,
    kind: Kind = "patch",
    steps: int = STEPS,
    batch_size: int = BATCH,
    wanted: float = WANTED,
    starts: int = STARTS,
    norm: float = 2.0,
    radius: float | None = None,
    seed: int = 0,
    precision: Precision = "fp32",
    targets: Sequence[Goal] | None = None,
    held_out: Source | None = None,
) -> tuple[Inverted, ...]:
    """Return, for every class (or for the `targets`), the smallest trigger that leads other images there.

    "patch": mask and pattern, by minimising the cross-entropy plus a weight times |mask|_1 that adapts to a success of
    `wanted`. "perturbation": a whole-image change of small l2 or l-inf (`norm` inf) norm; its ball adapts likewise, or
    has the given `radius` throughout, and then the most successful perturbation is kept. `steps` steps of Adam on
    `batch_size` samples, all targets at once; a patch from each of `starts` starts, of which the best is kept. Success
    is measured on `held_out`, else on the bonafide samples themselves, which flatters it. Only gradients of the input
    are computed; the network is left as it was.

    Raises BadInput for options out of range, fewer samples than classes, samples of one class, and outputs that are
    not finite.

    >>> from isthmus import Data
    >>> data = Data(torch.rand(8, 1, 2, 2), torch.arange(8) % 2, classes=2)
    >>> [found.target for found in invert(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), data, steps=2)]
    [0, 1]
    """
    options = _Options(kind, steps, batch_size, wanted, starts, norm, radius, seed, precision)
    data = as_data(bonafide)
    judged = data if held_out is None else as_data(held_out)
    goals: tuple[Goal, ...] = tuple(range(data.num_classes)) if targets is None else tuple(targets)
    for goal in goals:
        if goal != "any":
            eligible(data, goal)  # refuses what is no class
    _check_samples(model, data, precision)
    rows = options.rows
    group = max(1, pass_size(data.x) // 4 // (batch_size * rows))  # goals in one batch: gradients need room
    found: list[Inverted] = []
    with frozen(model):
        for part in (goals[i : i + group] for i in range(0, len(goals), group)):
            family = options.family(len(part), data.x.shape[1:], device_of(model))
            best = _search(model, data, [goal for goal in part for _ in range(rows)], family, options)
            triggers, sizes, merits = list(family.triggers(best.leaves)), best.size.tolist(), best.merit.tolist()
            for i, goal in enumerate(part):
                row = min(range(i * rows, (i + 1) * rows), key=lambda each: merits[each])
                reached = merits[row] < inf if radius is None else -merits[row] >= wanted
                score = min(0.0, log(max(sizes[row], 1e-12) / family.largest)) if reached else 0.0
                success = _question(judged, triggers[row], goal)(model)
                found.append(Inverted(triggers[row], goal, kind, sizes[row], score, success))
    return tuple(found)


# ---- the verdict


def anomaly_index(sizes: Sequence[float]) -> tuple[float, ...]:
    """Return (median - size) / (1.4826 MAD) for each size: Neural Cleanse's index, positive where a size is small.

    All zeros where the deviation is zero. Raises BadInput for fewer than three sizes or one that is not finite.

    >>> [round(index, 2) for index in anomaly_index([1.0, 9.0, 10.0, 11.0, 12.0])]
    [6.07, 0.67, 0.0, -0.67, -1.35]
    """
    values = np.asarray(sizes, dtype=float)
    if len(values) < 3 or not np.isfinite(values).all():
        raise BadInput(
            f"{len(values)} sizes", expected="three finite ones or more", fix="a small outlier needs others beside it"
        )
    off = np.median(values) - values
    scale = 1.4826 * float(np.median(np.abs(off)))
    return tuple((off / scale if scale > 0 else 0 * off).tolist())


def statistics(found: Sequence[Inverted]) -> dict[str, float]:
    """Return by kind how many times smaller, as a natural logarithm, the oddest trigger is than the median of classes.

    "patch" and "perturbation" are about the smallest trigger of a class, "patch, any" and "perturbation, any" about the
    one that leads away from every class. Raises BadInput for fewer than three classes.
    """
    result: dict[str, float] = {}
    for kind in dict.fromkeys(each.kind for each in found):
        scores = [each.score for each in found if each.kind == kind and each.target != "any"]
        if len(scores) < 3:
            raise BadInput(f"{len(scores)} classes", expected="three or more", fix="an outlier needs others beside it")
        result[kind] = median(scores) - min(scores)
        result |= {f"{kind}, any": median(scores) - e.score for e in found if e.kind == kind and e.target == "any"}
    return result


@dataclass(frozen=True)
class References:
    """The statistics of clean networks, one value per network under each name, and what they were measured on.

    `settings` are those of the search with the image shape and the number of classes: a network inspected otherwise
    cannot be compared.
    """

    networks: str
    settings: Mapping[str, Any]
    values: Mapping[str, Sequence[float]]

    def __post_init__(self) -> None:
        lengths = {len(values) for values in self.values.values()}
        if len(lengths) != 1 or not all(np.isfinite(list(values)).all() for values in self.values.values()):
            raise BadInput(
                f"references with {sorted(lengths)} values",
                expected="a finite value under every name for each clean network",
                fix="make them with `references`",
            )

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    def record(self) -> dict[str, Any]:
        """Return them as plain JSON; `read_references` reads it."""
        values = {name: list(each) for name, each in self.values.items()}
        return {"networks": self.networks, "settings": dict(self.settings), "values": values}


def read_references(file: Path | str | None = None) -> tuple[References, ...]:
    """Return the references in a JSON file, by default those that come with the package (docs/inspection.md).

    Raises BadInput where the file is missing or holds no references.
    """
    path = resources.files("isthmus").joinpath("references.json") if file is None else file
    held = read_json(str(path))
    try:
        return tuple(References(each["networks"], each["settings"], each["values"]) for each in held["references"])
    except (LookupError, TypeError, AttributeError) as error:
        raise BadInput(
            f"{path}, which holds no references", expected="what `References.record` gives", fix="choose another file"
        ) from error


def p_value(found: Mapping[str, float], references: References) -> float:
    """Return the share of clean networks, this one counted among them, that are at least as odd in some statistic.

    The statistics are standardised over the references and this network together, and the largest is compared. For a
    clean network that is exchangeable with the references, the chance of a value of a or less is at most a, whatever
    the distribution (conformal p-value). Raises BadInput where names differ.
    """
    if found.keys() != references.values.keys():
        raise BadInput(
            f"statistics {sorted(found)}", expected=f"{sorted(references.values)}", fix="inspect with the same kinds"
        )
    oddness = _standardised(found, references).max(1)
    return float((oddness >= oddness[-1]).mean())


def _standardised(found: Mapping[str, float], references: References) -> np.ndarray[Any, Any]:
    """Return (references + 1, statistics), mean 0 and deviation 1 in each column, this network last."""
    rows = np.array([[*references.values[name], value] for name, value in found.items()]).T
    return np.asarray((rows - rows.mean(0)) / np.maximum(rows.std(0), 1e-12))


@dataclass(frozen=True, eq=False)
class Inspection:
    """What an inspection found.

    `decision` is "suspicious", "not suspicious" or "cannot tell"; `p` the false-alarm rate at which it would be called
    suspicious, None where no references apply; `suspect` the goal of the oddest trigger; `index` Neural Cleanse's
    anomaly index of each class by kind; `found` the triggers; `statistics` and `settings` what references hold.
    """

    decision: str
    reason: str
    p: float | None
    suspect: Goal
    index: Mapping[str, tuple[float, ...]]
    statistics: Mapping[str, float]
    settings: Mapping[str, Any]
    found: tuple[Inverted, ...] = field(repr=False)


def _survey(
    model: nn.Module, data: Data, kinds: Sequence[Kind], held_out: Source | None, search: Search
) -> tuple[Inverted, ...]:
    if data.num_classes < 3:
        raise BadInput(f"{data.num_classes} classes", expected="three or more", fix="an outlier needs others beside it")
    goals: tuple[Goal, ...] = (*range(data.num_classes), "any")
    return tuple(
        each for kind in kinds for each in invert(model, data, kind=kind, targets=goals, held_out=held_out, **search)
    )


def _settings(data: Data, search: Search) -> dict[str, Any]:
    full: dict[str, Any] = {
        "steps": STEPS,
        "batch_size": BATCH,
        "wanted": WANTED,
        "starts": STARTS,
        "norm": 2.0,
        **search,
    }
    kept = {name: full[name] for name in ("steps", "batch_size", "wanted", "starts")} | {
        "norm": str(float(full["norm"]))
    }
    return {**kept, "image": list(data.x.shape[1:]), "classes": data.num_classes}


def references(
    networks: Sequence[nn.Module],
    bonafide: Source,
    *,
    name: str,
    kinds: Sequence[Kind] = KINDS,
    **search: Unpack[Search],
) -> References:
    """Return the references that clean networks give: train them as the suspect was trained, on data you trust.

    Raises BadInput as `inspect` does.
    """
    data = as_data(bonafide)
    found = [statistics(_survey(net, data, kinds, None, search)) for net in networks]
    if not found:
        raise BadInput("no clean networks", expected="twenty or so", fix="train some on data you trust")
    return References(name, _settings(data, search), {key: [each[key] for each in found] for key in found[0]})


def inspect(
    model: nn.Module,
    bonafide: Source,
    *,
    clean: References | None = None,
    level: float = 0.05,
    kinds: Sequence[Kind] = KINDS,
    held_out: Source | None = None,
    **search: Unpack[Search],
) -> Inspection:
    """Return whether a network obeys an oddly small trigger, of which class, and at what false-alarm rate.

    It is suspicious where p, its rank among the `clean` references (those of the package by default, where image shape,
    number of classes and settings fit), is at most `level`. The decision is "cannot tell" where no references fit, or
    they are fewer than 1 / level - 1. "not suspicious" does not say that there is no backdoor: docs/inspection.md has
    the share of each attack that is found. `search` goes to `invert`.

    Raises BadInput as `invert` does, and for fewer than three classes or a level outside (0, 1).
    """
    if not 0 < level < 1 or not kinds:
        raise BadInput(f"level {level}, kinds {kinds}", expected="0 < level < 1, one kind or more", fix="choose them")
    data = as_data(bonafide)
    found = _survey(model, data, kinds, held_out, search)
    values, settings = statistics(found), _settings(data, search)
    known = read_references() if clean is None else (clean,)
    fitting = [each for each in known if dict(each.settings) == settings and each.values.keys() == values.keys()]
    p = p_value(values, fitting[0]) if fitting else None
    suspect = _oddest(found, values, fitting[0] if fitting else None)
    decision, reason = _decide(p, fitting[0] if fitting else None, level, suspect)
    index: dict[str, tuple[float, ...]] = {
        kind: anomaly_index([each.size for each in found if each.kind == kind and each.target != "any"])
        for kind in kinds
    }
    return Inspection(decision, reason, p, suspect.target, index, values, settings, found)


def _oddest(found: Sequence[Inverted], values: Mapping[str, float], clean: References | None) -> Inverted:
    """Return the trigger behind the statistic that stands out most; without references, the smallest of a class."""
    if clean is None:
        names = [name for name in values if not name.endswith(", any")]
        name = max(names, key=lambda each: values[each])
    else:
        name = list(values)[int(_standardised(values, clean)[-1].argmax())]
    kind, _, any_ = name.partition(", ")
    return min((e for e in found if e.kind == kind and (e.target == "any") == bool(any_)), key=lambda e: e.score)


def _decide(p: float | None, clean: References | None, level: float, suspect: Inverted) -> tuple[str, str]:
    where = "leads away from every class" if suspect.target == "any" else f"leads to class {suspect.target}"
    odd = f"the oddest trigger is a {suspect.kind} of size {suspect.size:.3g} that {where}"
    if p is None or clean is None:
        return "cannot tell", f"no references for such images, classes and settings; {odd}"
    rank = f"{len(clean)} clean networks ({clean.networks})"
    if 1 / (len(clean) + 1) > level:
        return "cannot tell", f"{rank} cannot resolve a false-alarm rate of {percent(level)}; {odd}"
    if p <= level:
        return "suspicious", f"{odd}; among {rank} and this one, {percent(p)} are as odd"
    return "not suspicious", f"among {rank} and this one, {percent(p)} are as odd; {odd}; no proof of a clean network"


# ---- questions for the choice of t


@dataclass(frozen=True, eq=False)
class InvertedSuccess:
    """How often given triggers reach their goals, as a Rate: the "highest" of them, or the "mean" over all attempts.

    The triggers are those found on one network, so along a path it tells what is left of them; samples of a target
    class are not counted for it.
    """

    data: Source = field(repr=False)
    inverted: Sequence[Inverted]
    pick: Literal["highest", "mean"] = "highest"
    asked: Data = field(init=False)
    questions: tuple[_Question, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.pick not in ("highest", "mean") or not self.inverted:
            raise BadInput(
                f"{len(self.inverted)} triggers, pick {self.pick!r}",
                expected="one trigger or more, highest or mean",
                fix="pass what invert returns",
            )
        object.__setattr__(self, "asked", as_data(self.data))
        object.__setattr__(self, "questions", tuple(each.on(self.asked) for each in self.inverted))

    def __call__(self, model: nn.Module) -> Rate:
        """Return the success of the triggers on the model."""
        rates = [question(model) for question in self.questions]
        if self.pick == "highest":
            return max(rates)
        return Rate(sum(rate.hits for rate in rates), sum(rate.n for rate in rates))


@dataclass(frozen=True, eq=False)
class SmallestTrigger:
    """The smallest size of a trigger that some class obeys, found anew on the network it is asked about.

    In pixels of a mask or as a norm, as `kind` says; the largest possible size where no trigger succeeds. Dear: one
    inversion per answer. `search` goes to `invert`.
    """

    data: Source = field(repr=False)
    kind: Kind = "perturbation"
    search: Search = field(default_factory=Search)
    asked: Data = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "asked", as_data(self.data))

    def __call__(self, model: nn.Module) -> float:
        """Return the smallest size over the classes."""
        found = invert(model, self.asked, kind=self.kind, **self.search)
        reached = [each.size for each in found if each.score < 0]
        return min(reached) if reached else self._largest()

    def _largest(self) -> float:
        channels, height, width = self.asked.x.shape[1:]
        if self.kind == "patch":
            return float(height * width)
        return 1.0 if self.search.get("norm") == inf else sqrt(channels * height * width)
