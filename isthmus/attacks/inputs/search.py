"""The loop of every attack: batches, which samples still stand, and the worst point of each.

An attack is a list of trials (restarts, target classes), and a trial is a generator: it looks at
points and yields a `Visit` for each look. The loop keeps what is worst, and drops the samples that
are fooled from the trial's `Rows`, whatever the trial remembers of them included: between two
yields a trial may find fewer rows, always aligned. When none is left the trial is not resumed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from isthmus.attacks.inputs.objectives import Objective, margin
from isthmus.attacks.inputs.trace import Trace, reporting
from isthmus.attacks.inputs.victim import Victim, check_inputs, generator_of, under_attack
from isthmus.models.forward import device_of, pass_size
from isthmus.runs.devices import Precision


@dataclass
class Rows:
    """The samples that a trial still attacks, one row each: places in the batch, inputs, labels.

    A trial that remembers something of each sample (a point, a momentum) adds it as a field of a
    subclass: a tensor with a row for each sample, or None.
    """

    index: Tensor
    x: Tensor
    y: Tensor

    def keep(self, mask: Tensor) -> None:
        """Drop the rows outside the mask, (rows,) bool, from every field."""
        for name in [field.name for field in fields(self)]:
            value = getattr(self, name)
            if value is not None:
                setattr(self, name, value[mask])


@dataclass(frozen=True)
class Visit:
    """A look at one point of each row: the points (rows, ...) and the logits there (rows, classes).

    `gradient` is the gradient in the input that the attack took, where it took one. `counts`,
    (rows,) bool, says which of the points may be returned; None: all of them.
    """

    rows: Rows
    points: Tensor
    logits: Tensor
    gradient: Tensor | None = None
    counts: Tensor | None = None


Trial = Callable[[Victim, Rows, torch.Generator | None], Iterator[Visit]]
"""One try at the rows that still stand: `(victim, rows, generator) -> visits`."""

Trials = Callable[[Tensor, Tensor], Iterable[Trial]]
"""The trials of an attack on a batch, in order: `(clean logits, y) -> trials`."""


class Search(ABC):
    """An attack that is a list of trials: a frozen dataclass that writes `_trials` and `random`.

    Its fields or properties say how the loop runs; the others keep the values that stand here.
    """

    @abstractmethod
    def _trials(self, clean: Tensor, y: Tensor) -> Iterable[Trial]:
        """Return the trials on a batch, in order, from the logits of the clean inputs (n, classes)
        and the labels.
        """

    @property
    @abstractmethod
    def random(self) -> bool:
        """Whether the attack draws, so that another seed may give other points."""

    @property
    def score(self) -> Objective:
        """What is worst: of the points that do not fool, the one of the highest score is kept."""
        return margin

    @property
    def stops(self) -> bool:
        """Whether a sample that is fooled is done with."""
        return True

    @property
    def seed(self) -> int | None:
        """The seed of the generator that the trials draw from; None is the global one."""
        return None

    @property
    def precision(self) -> Precision | None:
        """The number type of the network's passes; None is that of the surroundings."""
        return None

    @property
    def batch_size(self) -> int | None:
        """How many samples are attacked at once; None is as many as memory takes."""
        return None

    @property
    def batch_statistics(self) -> bool:
        """Whether BatchNorm layers in train mode normalize by the batch."""
        return False

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the attacked inputs, of the shape, type and device of x. Raises BadInput where x
        leaves [0, 1].
        """
        return run_search(
            model,
            x,
            y,
            self._trials,
            score=self.score,
            stops=self.stops,
            seed=self.seed,
            precision=self.precision,
            batch_size=self.batch_size,
            batch_statistics=self.batch_statistics,
        )


class _Worst:
    """The worst point seen of each of n samples, and its score; a fooled sample beats one that is
    not.
    """

    def __init__(
        self, x: Tensor, y: Tensor, logits: Tensor, score: Objective, *, stops: bool
    ) -> None:
        self.points = x.clone()
        self.y = y
        self.score = score
        self.stops = stops
        self.values = score(logits, y)
        self.fooled = self._wrong(logits, y)
        self.climbed = torch.zeros_like(self.fooled)
        self.moved = torch.zeros_like(self.fooled)
        self.all_moved = False

    def _wrong(self, logits: Tensor, y: Tensor) -> Tensor:
        labels = y if y.ndim == 1 else y.argmax(1)
        if not self.stops:
            return torch.zeros_like(labels, dtype=torch.bool)
        return logits.argmax(1) != labels

    def standing(self) -> Tensor:
        """Return the indices of the samples still to be attacked; all of them where fooling is not
        the aim.
        """
        return (~self.fooled).nonzero().squeeze(1)

    def note(self, visit: Visit) -> Tensor:
        """Keep what is worse than what was seen; return which rows are fooled, (rows,) bool."""
        index = visit.rows.index
        y = self.y[index]
        values = self.score(visit.logits, y)
        wrong = self._wrong(visit.logits, y)
        before = self.fooled[index]
        worse = (wrong & ~before) | ((wrong == before) & (values > self.values[index]))
        if visit.counts is not None:
            wrong = wrong & visit.counts
            worse = worse & visit.counts
        better = index[worse]
        self.points[better] = visit.points[worse]
        self.values[better] = values[worse]
        self.fooled[index] = before | wrong
        if visit.gradient is not None and not self.all_moved:
            self._note_gradient(index, visit.gradient)
        return wrong

    def _note_gradient(self, index: Tensor, gradient: Tensor) -> None:
        """Note for which rows the gradient is not zero, until it has been so for all of them."""
        self.climbed[index] = True
        self.moved[index] |= gradient.flatten(1).abs().amax(1) != 0
        self.all_moved = bool(self.moved[index].all())

    def trace(self) -> Trace:
        """Return how many samples were attacked along a gradient, and for how many it was zero."""
        return Trace(int(self.climbed.sum()), int((self.climbed & ~self.moved).sum()))


def run_search(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    trials: Trials,
    *,
    score: Objective,
    stops: bool = True,
    seed: int | None = 0,
    precision: Precision | None = None,
    batch_size: int | None = None,
    batch_statistics: bool = False,
) -> Tensor:
    """Return the worst points that the trials visit, the inputs themselves among them, on x's
    device.

    In batches sized to memory. "Worst" is the highest `score`; with `stops` (the default) a point
    that fools comes first, and its sample leaves the batch at once. Raises BadInput where x is not
    in [0, 1] or y does not fit.
    """
    check_inputs(x, y)
    if not len(x):
        return x.clone()
    device = device_of(model)
    generator = generator_of(seed)
    size = batch_size or (len(x) if batch_statistics else pass_size(x, device, gradients=True))
    images = x.detach().to(device).split(size)
    labels = y.to(device).split(size)
    victim = Victim(model, precision)
    done = []
    with under_attack(model, batch_statistics=batch_statistics), reporting() as trace:
        for part, wanted in zip(images, labels, strict=True):
            logits = victim.logits(part)
            worst = _Worst(part, wanted, logits, score, stops=stops)
            if len(worst.standing()):
                _run_trials(trials(logits, wanted), victim, part, worst, generator)
            trace.add(worst.trace())
            done.append(worst.points)
    return torch.cat(done).to(x.device)


def _run_trials(
    trials: Iterable[Trial],
    victim: Victim,
    x: Tensor,
    worst: _Worst,
    generator: torch.Generator | None,
) -> None:
    for trial in trials:
        index = worst.standing()
        if not len(index):
            return
        for visit in trial(victim, Rows(index, x[index], worst.y[index]), generator):
            fooled = worst.note(visit)
            if bool(fooled.any()):
                visit.rows.keep(~fooled)
                if not len(visit.rows.index):
                    break


def per_sample(values: Tensor, x: Tensor) -> Tensor:
    """Return values (n,) in a shape that multiplies samples like x (n, ...)."""
    return values.view(-1, *[1] * (x.ndim - 1))
