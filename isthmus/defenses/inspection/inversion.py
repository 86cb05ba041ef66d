"""Trigger inversion: the smallest trigger that a network obeys, class by class: a stand-in for the
real one.

Source: Wang et al., Neural Cleanse, IEEE S&P 2019, section IV (mask and pattern, weight of the
mask's norm); Moosavi-Dezfooli et al., CVPR 2017 (universal perturbations), here targeted.

Where we depart:
- Masks start nearly closed (5 %), not half open. From a half open mask the search ends in a natural
  feature of the target class and misses a small patch that the network obeys (measured on the
  digits: size 10.0 against 3.2).
- A mask is searched from several starts, and the smallest that succeeds is kept: a single one
  misses a patch that the network obeys in about every other case (docs/inspection.md).
- All classes are searched in one batch, each with a weight or radius of its own; samples of the
  target class neither drive the search nor count. The whole-image perturbation's ball shrinks and
  grows in place of a weight.
- Besides one trigger per class, one is sought that leads every image away from its own class
("any"): what a backdoor that sends each class elsewhere obeys, where no single class has a small
trigger.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, inf, log, sqrt
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from isthmus.data.dataset import Data, Source, as_data
from isthmus.defenses.inspection.found_triggers import (
    KINDS,
    Goal,
    Inverted,
    Kind,
    MaskedPattern,
    Perturbation,
    question_of,
)
from isthmus.metrics.passes import Passes, logits
from isthmus.metrics.question import Question
from isthmus.metrics.success import eligible
from isthmus.models.forward import (
    as_input,
    device_of,
    forward_pass,
    frozen,
    logits_of,
    pass_size,
    takes_channels_last,
)
from isthmus.runs.devices import Precision, autocast
from isthmus.runs.progress import bar
from isthmus.training.batches import batch_indices
from isthmus.training.options import sorted_options
from isthmus.types import BadInput, Trigger

_WINDOW = 5  # steps over which success is counted before weight or radius changes


_OPEN, _SPREAD = -3.0, 0.5  # logit of a mask at the start; deviation of the starts


_MASK_LR, _DELTA_LR, _BETAS = 0.3, 0.02, (0.5, 0.9)


_WEIGHT_FACTOR, _RADIUS_FACTOR = 1.5, 1.1


# ---- the search
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
    """Mask and pattern, each the sigmoid of a free tensor; pressed by a weight on the mask's L1
    norm.
    """

    lr = _MASK_LR

    def __init__(self, starts: Tensor) -> None:
        self.leaves = [leaf.clone().requires_grad_() for leaf in (_OPEN + starts[:, :1], starts)]
        self.largest = float(starts[0, 0].numel())
        self.weight = starts.new_full(
            (len(starts),), 1 / self.largest
        )  # the whole image costs one nat

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
    """One perturbation per goal, held in a ball; pressed by the ball's radius, unless that is
    given.
    """

    lr = _DELTA_LR

    def __init__(self, starts: Tensor, norm: float, radius: float | None) -> None:
        self.leaves = [(_DELTA_LR * starts).requires_grad_()]
        self.norm, self.free = norm, radius is None
        self.largest = 1.0 if norm == inf else sqrt(starts[0].numel())
        self.radius = starts.new_full(
            (len(starts),), self.largest / 2 if radius is None else radius
        )
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
    """Return which answers (g, n, classes) each goal wants for samples of true classes y (n,)."""
    own = nn.functional.one_hot(y, classes).bool()
    classes_in_order = torch.arange(classes, device=y.device)
    return torch.stack(
        [~own if goal == "any" else (classes_in_order == goal).expand_as(own) for goal in goals]
    )


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
        return cls(
            leaves,
            torch.full_like(size, inf),
            size.clone(),
            torch.zeros_like(size),
            torch.zeros_like(size),
        )

    def count(self, answers: Tensor, wanted: Tensor, counts: Tensor) -> None:
        self.hits += (wanted.gather(2, answers.argmax(2, keepdim=True)).squeeze(2) & counts).sum(1)
        self.counted += counts.sum(1)

    def judge(self, family: _Family, share: float, *, by_size: bool) -> Tensor:
        """Keep what is better than before; return which goals reached the wanted success."""
        success, size = self.hits / self.counted.clamp_min(1), family.sizes().detach()
        won = success >= share
        merit = torch.where(won, size, inf) if by_size else -success
        better = (
            merit < self.merit
        ) | self.merit.isinf()  # until one succeeds, the last one stands
        for best, leaf in zip(self.leaves, family.leaves, strict=True):
            best[better] = leaf.detach()[better]
        self.merit, self.size = (
            torch.where(better, merit, self.merit),
            torch.where(better, size, self.size),
        )
        self.hits, self.counted = torch.zeros_like(self.hits), torch.zeros_like(self.counted)
        return won


def objective(answers: Tensor, wanted: Tensor, counts: Tensor) -> Tensor:
    """Return the mean of -log(probability of the wanted answers) over the samples that count, in
    nats, shape (g,).

    `answers` are logits (g, n, classes), `wanted` (g, n, classes) and `counts` (g, n) bool. For one
    wanted class it is the cross-entropy; for all classes but the image's own, the logarithm of how
    likely that one is not.
    """
    answers = answers.to(torch.promote_types(answers.dtype, torch.float32))
    nats = answers.logsumexp(2) - answers.masked_fill(~wanted, -inf).logsumexp(2)
    return torch.where(counts, nats, 0).sum(1) / counts.sum(1).clamp_min(1)


def _search(
    model: nn.Module, data: Data, goals: Sequence[Goal], family: _Family, search: Search
) -> _Best:
    """Minimize the objective plus the penalty for all goals at once, by Adam, and return the best
    that was seen.
    """
    device, last = device_of(model), takes_channels_last(model, data.x)
    optimizer = torch.optim.Adam(family.leaves, lr=family.lr, betas=_BETAS)
    best = _Best.of(family)
    with bar(f"inverting a {search.kind}", search.steps) as advance:
        for step in range(1, search.steps + 1):
            index = batch_indices(len(data), search.batch_size, step - 1, search.seed)
            x, y = as_input(data.x[index], device, channels_last=False), data.y[index].to(device)
            wanted = _wanted(y, goals, data.num_classes)
            counts = ~wanted.gather(2, y.expand(len(goals), -1)[..., None]).squeeze(
                2
            )  # not there already
            with autocast(device, search.precision):
                images = as_input(family.on(x).flatten(0, 1), device, channels_last=last)
                answers = logits_of(forward_pass(model, images)).unflatten(0, (len(goals), -1))
            value = objective(answers, wanted, counts) + family.penalty()
            for leaf, grad in zip(
                family.leaves, torch.autograd.grad(value.sum(), family.leaves), strict=True
            ):
                leaf.grad = grad
            best.count(answers.detach(), wanted, counts)
            if step % _WINDOW == 0 or step == search.steps:
                family.press(best.judge(family, search.wanted, by_size=search.radius is None))
            optimizer.step()
            family.project()
            advance("")
    return best


@dataclass(frozen=True)
class Search:
    """How `invert` searches for a trigger.

    `kind` "patch" is a mask and a pattern, by minimizing the cross-entropy plus a weight times
    |mask|_1 that adapts to a success of `wanted`. "perturbation" is a whole-image change of small
    l2 or l-inf (`norm` inf) norm; its ball adapts likewise, or has the given `radius` throughout,
    and then the most successful perturbation is taken. `steps` steps of Adam on `batch_size`
    samples; a patch from each of `starts` starts, of which the best is taken.

    Raises BadInput where an option is out of range.
    """

    kind: Kind = "patch"
    steps: int = 300
    batch_size: int = 32
    wanted: float = 0.99
    starts: int = 3
    norm: float = 2.0
    radius: float | None = None
    seed: int = 0
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise BadInput(
                f"kind {self.kind!r}", expected="patch or perturbation", fix="pass kind='patch'"
            )
        if min(self.steps, self.batch_size, self.starts) < 1 or not 0 < self.wanted <= 1:
            raise BadInput(
                f"steps = {self.steps}, batch_size = {self.batch_size}, starts = {self.starts}, "
                f"wanted = {self.wanted}",
                expected="a budget above zero and a success in (0, 1]",
                fix="pass steps=300, batch_size=32, starts=3, wanted=0.99",
            )
        if self.norm not in (2, inf) or (self.radius is not None and not 0 < self.radius < inf):
            raise BadInput(
                f"norm {self.norm}, radius {self.radius}",
                expected="norm 2 or inf, radius above zero",
                fix="pass norm=2 and no radius",
            )

    @property
    def rows(self) -> int:
        """How many searches a goal gets; the balls of perturbations lead to one place from
        anywhere.
        """
        return self.starts if self.kind == "patch" else 1

    def family(self, goals: int, shape: torch.Size, device: torch.device) -> _Family:
        """Return where the searches start, goal by goal: the same for every goal, whatever the
        others are.
        """
        generator = torch.Generator().manual_seed(self.seed)
        starts = torch.stack(
            [_SPREAD * torch.randn(shape, generator=generator) for _ in range(self.rows)]
        )
        starts = starts.repeat(goals, 1, 1, 1).to(device)
        return _Masks(starts) if self.kind == "patch" else _Balls(starts, self.norm, self.radius)


def _check_samples(model: nn.Module, data: Data, precision: Precision) -> None:
    if len(data.y.unique()) < 2:
        raise BadInput(
            "samples of one class",
            expected="two classes or more",
            fix="pass samples of other classes too",
        )
    if len(data) < data.num_classes:
        raise BadInput(
            f"{len(data)} samples for {data.num_classes} classes",
            expected="as many samples as classes, or more",
            fix="pass more bonafide samples",
        )
    if not torch.isfinite(logits(model, data, precision)).all():
        raise BadInput(
            "outputs that are NaN or infinite",
            expected="finite logits",
            fix="check the weights and inputs",
        )


def invert(
    model: nn.Module,
    bonafide: Source,
    *,
    search: Search | None = None,
    targets: Sequence[Goal] | None = None,
    held_out: Source | None = None,
    **options: Any,
) -> tuple[Inverted, ...]:
    """Return, for every class (or for the `targets`), the smallest trigger that leads other images
    there.

    `options` are fields of `Search` (kind, steps, batch_size, wanted, starts, norm, radius, seed,
    precision), in place of those of `search`. All targets are searched for at once. Success is
    measured on `held_out`, else on the bonafide samples themselves, which flatters it. Only
    gradients of the input are computed; the network is left as it was.

    Raises BadInput for options out of range, fewer samples than classes, samples of one class, and
    outputs that are not finite.

    >>> from isthmus import Data
    >>> data = Data(torch.rand(8, 1, 2, 2), torch.arange(8) % 2, classes=2)
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> [trigger.target for trigger in invert(net, data, steps=2)]
    [0, 1]
    """
    search = searching(search, options)
    data = as_data(bonafide)
    judged = data if held_out is None else as_data(held_out)
    goals: tuple[Goal, ...] = tuple(range(data.num_classes)) if targets is None else tuple(targets)
    for goal in goals:
        if goal != "any":
            eligible(data, goal)  # refuses what is no class
    _check_samples(model, data, search.precision)
    batch = search.batch_size * search.rows
    group = max(1, pass_size(data.x, device_of(model), gradients=True) // batch)
    triggers: list[Inverted] = []
    with frozen(model):
        for i in range(0, len(goals), group):
            triggers += _inverted(model, data, judged, goals[i : i + group], search)
    return tuple(triggers)


def searching(search: Search | None, options: Mapping[str, Any]) -> Search:
    """Return the search with these options in place of its own. Raises BadInput for other names."""
    sorted_options(options, Search)
    return replace(search or Search(), **options)


def _inverted(
    model: nn.Module, data: Data, judged: Data, goals: Sequence[Goal], search: Search
) -> Iterator[Inverted]:
    """Search for the triggers of these goals in one batch, and yield the best for each."""
    rows = search.rows
    family = search.family(len(goals), data.x.shape[1:], device_of(model))
    best = _search(model, data, [goal for goal in goals for _ in range(rows)], family, search)
    triggers = list(family.triggers(best.leaves))
    sizes = best.size.tolist()
    merits = best.merit.tolist()
    for i, goal in enumerate(goals):
        row = min(range(i * rows, (i + 1) * rows), key=lambda candidate: merits[candidate])
        reached = merits[row] < inf if search.radius is None else -merits[row] >= search.wanted
        score = min(0.0, log(max(sizes[row], 1e-12) / family.largest)) if reached else 0.0
        success = question_of(judged, triggers[row], goal)(model)
        yield Inverted(triggers[row], goal, search.kind, sizes[row], score, success)


_DEFAULT_SEARCH = Search()


@dataclass(frozen=True, eq=False)
class SmallestTrigger(Question[float]):
    """The smallest size of a trigger that some class obeys, searched for anew on each network.

    In pixels of a mask or as a norm, as `kind` says; the largest possible size where no trigger
    succeeds. Expensive: every call runs a full inversion. `search`, whose kind is replaced, goes to
    `invert`.
    """

    kind: Kind = "perturbation"
    search: Search = _DEFAULT_SEARCH

    @property
    def gradients(self) -> int:
        """How many gradients the searches for all classes take, shared out among the samples."""
        search, samples = self.search, self.samples
        batch = min(search.batch_size, len(samples))
        starts = search.starts if self.kind == "patch" else 1
        return ceil(search.steps * starts * batch * samples.num_classes / len(samples))

    @property
    def basis(self) -> object:
        """This search, which nothing shares."""
        return self

    def answer(self, passes: Passes) -> float:
        """Return the smallest size over the classes."""
        triggers = invert(passes.model, self.samples, search=self.search, kind=self.kind)
        reached = [trigger.size for trigger in triggers if trigger.score < 0]
        return min(reached) if reached else self._largest()

    def _largest(self) -> float:
        channels, height, width = self.samples.x.shape[1:]
        if self.kind == "patch":
            return float(height * width)
        return 1.0 if self.search.norm == inf else sqrt(channels * height * width)
