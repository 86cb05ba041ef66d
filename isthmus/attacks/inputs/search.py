"""The loop of every attack: batches, which samples still stand, and the worst point of each.

An attack is a list of trials (restarts, target classes), and a trial is a generator: it looks at
points and yields a `Visit` for each look. The loop keeps what is worst, and drops the samples that
are fooled from the trial's `Rows`, whatever the trial remembers of them included: between two
yields a trial may find fewer rows, always aligned. When none is left the trial is not resumed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from isthmus.attacks.inputs.health.by_products import AttackWatch, watching
from isthmus.attacks.inputs.memory import Tape, remembered
from isthmus.attacks.inputs.objectives import Objective, margin
from isthmus.attacks.inputs.trace import Trace, reporting
from isthmus.attacks.inputs.victim import Victim, check_inputs, generator_of, meet, under_attack
from isthmus.models.forward import device_of, pass_size
from isthmus.models.noise import seeded_draws
from isthmus.runs.devices import Precision
from isthmus.runs.progress import gauge

QUERIES_PER_GRADIENT = 3
"""How many queries cost about as much as a gradient."""


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


class TrialAttack(ABC):
    """An attack that is a list of trials: a frozen dataclass that writes `_trials`, `random` and
    `gradients`.

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
    @abstractmethod
    def gradients(self) -> int:
        """How many gradients a sample costs that is never fooled; a query counts as a third."""

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

    @property
    def restarted(self) -> bool:
        """Whether the trials are starts of one search, so that their scores compare."""
        return True

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the attacked inputs, of the shape, type and device of x. Raises BadInput where x
        leaves [0, 1].
        """
        return _run(self, model, x, y)

    def remembering(self) -> AbstractContextManager[AttackWatch]:
        """Return a block that remembers this attack's runs, and can say how healthy they were."""
        return watching(self)


class _Worst:
    """The worst point seen of each of n samples, and its score; a fooled sample beats one that is
    not. `clean` are the logits of the samples themselves.
    """

    def __init__(
        self, x: Tensor, y: Tensor, clean: Tensor, score: Objective, *, stops: bool
    ) -> None:
        self.x = x
        self.y = y
        self.clean = clean
        self.points = x.clone()
        self.score = score
        self.stops = stops
        self.values = score(clean, y)
        self.fooled = self._wrong(clean, y)
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

    def note(self, visit: Visit) -> tuple[Tensor, Tensor]:
        """Keep what is worse than what was seen; return which rows are fooled, (rows,) bool, and
        the scores (rows,).
        """
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
        return wrong, values

    def _note_gradient(self, index: Tensor, gradient: Tensor) -> None:
        """Note for which rows the gradient is not zero, until it has been so for all of them."""
        self.climbed[index] = True
        self.moved[index] |= gradient.flatten(1).abs().amax(1) != 0
        self.all_moved = bool(self.moved[index].all())

    def trace(self) -> Trace:
        """Return how many samples were attacked along a gradient, and for how many it was zero."""
        return Trace(int(self.climbed.sum()), int((self.climbed & ~self.moved).sum()))


def _run(search: TrialAttack, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the worst points that the trials visit, the inputs themselves among them, on x's
    device.

    In batches sized to memory. "Worst" is the highest score; where the search stops, a point that
    fools comes first, and its sample leaves the batch at once. Raises BadInput where x is not in
    [0, 1] or y does not fit.
    """
    check_inputs(x, y)
    if not len(x):
        return x.clone()
    device = device_of(model)
    generator = generator_of(search.seed)
    size = search.batch_size
    if size is None:
        whole = search.batch_statistics
        size = len(x) if whole else pass_size(x, device, gradients=True)
    images = x.detach().to(device).split(size)
    labels = y.to(device).split(size)
    done = []
    with (
        under_attack(model, batch_statistics=search.batch_statistics),
        reporting() as trace,
    ):
        for part, wanted in zip(images, labels, strict=True):
            victim, logits = meet(model, part, search.precision)
            step = len(part) if search.batch_statistics else max(1, size // victim.draws)
            pieces = zip(part.split(step), wanted.split(step), logits.split(step), strict=True)
            for piece in pieces:
                worst = _Worst(*piece, search.score, stops=search.stops)
                _run_batch(search, victim, worst, generator)
                trace.add(worst.trace())
                done.append(worst.points)
    return torch.cat(done).to(x.device)


def _run_batch(
    search: TrialAttack, victim: Victim, worst: _Worst, generator: torch.Generator | None
) -> None:
    """Run the trials on one batch, and let an open memory look on."""
    ball = getattr(search, "ball", None)
    seed = search.seed if victim.draws > 1 else None  # a random network draws alike every time
    with (
        seeded_draws(seed, worst.x.device),
        remembered(worst.x, worst.y, ball, draws=victim.draws, restarts=search.restarted) as tape,
    ):
        if len(worst.standing()):
            trials = search._trials(worst.clean, worst.y)
            with nullcontext() if (seen := gauge()) is None else seen.batch(len(worst.x)):
                _run_trials(trials, victim, worst, generator, tape)


def _run_trials(
    trials: Iterable[Trial],
    victim: Victim,
    worst: _Worst,
    generator: torch.Generator | None,
    tape: Tape | None,
) -> None:
    seen = gauge()
    for trial in trials:
        index = worst.standing()
        if not len(index):
            return
        if tape is not None:
            tape.start()
        for visit in trial(victim, Rows(index, worst.x[index], worst.y[index]), generator):
            fooled, values = worst.note(visit)
            if tape is not None:
                tape.look(visit, values, fooled)
            if seen is not None:
                seen.look(
                    len(worst.standing()), 1 / QUERIES_PER_GRADIENT if visit.gradient is None else 1
                )
            if bool(fooled.any()):
                visit.rows.keep(~fooled)
                if not len(visit.rows.index):
                    break


def per_sample(values: Tensor, x: Tensor) -> Tensor:
    """Return values (n,) in a shape that multiplies samples like x (n, ...)."""
    return values.view(-1, *[1] * (x.ndim - 1))
