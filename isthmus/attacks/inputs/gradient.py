"""Attacks that climb along the input gradient with a fixed step: FGSM, PGD, and MSD for several
balls at once.

Source: Goodfellow et al., ICLR 2015 (FGSM); Madry et al., ICLR 2018 (PGD); Maini et al., ICML 2020
(l1, and MSD, Algorithm 1).

Where we depart: the random start is projected onto the box as well; each step is projected onto
ball and box together; gradient values that point out of the box are dropped before an l1 step,
which would be spent on them; the worst point seen is returned instead of the last one, and samples
that are fooled leave the batch. In training (see `Ascent.for_training`) it is the last point after
all steps, as in the papers.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor, nn

from isthmus.attacks.inputs.memory import remembered
from isthmus.attacks.inputs.objectives import Objective, cross_entropy_per_sample
from isthmus.attacks.inputs.search import Rows, Trial, TrialAttack, Visit
from isthmus.attacks.inputs.victim import (
    Victim,
    check_counts,
    check_inputs,
    generator_of,
    meet,
    under_attack,
)
from isthmus.data.balls import L1, Ball
from isthmus.runs.devices import Precision
from isthmus.types import BadInput


@dataclass
class Climb(Rows):
    """The rows of an ascent, with the point that each has reached and the gradient there.

    `memory` is for a step that remembers something of each sample, such as a momentum; None before
    the first step.
    """

    points: Tensor
    gradient: Tensor
    memory: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Ascent(TrialAttack):
    """Projected gradient ascent: all that `PGD`, `MIFGSM` and `MSD` share; they differ in the
    region and the step in it.

    From `restarts` starts, the first one too at random unless `random_start` is off. `returns` says
    which point:

    - "fooled": one that fools, as soon as it is met; else the one of the highest objective. For
      robust accuracy.
    - "worst": the one of the highest objective after all steps. For the robustness loss.
    - "last": the last one, whatever it is. For training; the only one that can be weaker than no
      attack.

    `seed` None draws from the global generator. `precision` None is that of the surroundings, fp32
    outside autocast. With `batch_statistics`, BatchNorm layers that are in train mode normalize by
    the batch; no buffer moves. y may be (n, classes) shares where the objective is the
    cross-entropy.
    """

    restarts: int = 1
    random_start: bool = True
    objective: Objective = cross_entropy_per_sample
    returns: Literal["fooled", "worst", "last"] = "fooled"
    seed: int | None = 0
    precision: Precision | None = None
    batch_size: int | None = None
    batch_statistics: bool = False

    @property
    @abstractmethod
    def steps(self) -> int:
        """How many gradients each start takes."""

    @abstractmethod
    def _sample(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return a random start near x, within region and box."""

    @abstractmethod
    def _step(self, victim: Victim, at: Climb) -> Tensor:
        """Return the points one step on from `at`, within region and box."""

    @property
    def score(self) -> Objective:
        """The objective."""
        return self.objective

    @property
    def stops(self) -> bool:
        """Whether a sample that is fooled is done with: only where the point that fools counts."""
        return self.returns == "fooled"

    @property
    def gradients(self) -> int:
        """How many gradients a sample costs that is never fooled."""
        return self.steps * self.restarts

    @property
    def random(self) -> bool:
        """Whether it draws, so that another seed may give other points."""
        return self.random_start

    def __post_init__(self) -> None:
        check_counts(steps=self.steps, restarts=self.restarts)
        if self.returns not in ("fooled", "worst", "last"):
            raise BadInput(
                f"returns = {self.returns!r}",
                expected="fooled, worst or last",
                fix="pass returns='fooled'",
            )
        if self.returns == "last" and self.restarts > 1:
            raise BadInput(
                f"{self.restarts} restarts of which the last point counts",
                expected="one",
                fix="pass restarts=1",
            )
        if self.returns == "fooled" and self.batch_statistics:
            raise BadInput(
                "statistics of a batch that fooled samples leave",
                expected="a batch that stays whole",
                fix="pass returns='worst' or 'last'",
            )

    def for_training(self) -> Self:
        """Return the attack as training uses it: one start, all steps, the last point, draws that
        differ each time.

        BatchNorm normalizes by the batch, as in the training pass: the running statistics of a live
        point of a curve are those of an end, and an attack on these is an attack on another network
        (`docs/attacks.md` has figures).
        """
        return replace(self, returns="last", restarts=1, seed=None, batch_statistics=True)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the attacked inputs, of the shape, type and device of x. Raises BadInput where x
        leaves [0, 1].
        """
        if self.returns == "last":
            return self._last(model, x, y)
        return super().__call__(model, x, y)

    def _last(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        check_inputs(x, y)
        x = x.detach()
        if not len(x):
            return x.clone()
        with under_attack(model, batch_statistics=self.batch_statistics):
            training = self.batch_statistics  # there every draw of a random network is another one
            victim = Victim(model, self.precision)
            if not training:
                victim, _ = meet(model, x[:2], self.precision)  # two tell whether it draws
            at = self._start(Rows(torch.arange(len(x)), x, y), generator_of(self.seed))
            ball = getattr(self, "ball", None)
            with remembered(x, y, ball, draws=victim.draws, restarts=True) as tape:
                if tape is not None:
                    tape.start()
                for visit in self._ascend(victim, at):
                    if tape is not None:
                        nobody = torch.zeros(len(x), dtype=torch.bool, device=x.device)
                        tape.look(visit, self.objective(visit.logits, y), nobody)
        return at.points

    def _trials(self, _: Tensor, __: Tensor) -> Iterable[Trial]:
        return [self._search] * self.restarts

    def _search(
        self, victim: Victim, rows: Rows, generator: torch.Generator | None
    ) -> Iterator[Visit]:
        at = self._start(rows, generator)
        yield from self._ascend(victim, at)
        yield Visit(at, at.points, victim.logits(at.points))

    def _ascend(self, victim: Victim, at: Climb) -> Iterator[Visit]:
        """Visit the points of all steps but the last one, where no gradient is needed."""
        for _ in range(self.steps):
            _, at.gradient, logits = victim.gradient(at.points, at.y, self.objective)
            yield Visit(at, at.points, logits, at.gradient)
            at.points = self._step(victim, at)

    def _start(self, rows: Rows, generator: torch.Generator | None) -> Climb:
        points = self._sample(rows.x, generator) if self.random_start else rows.x.clone()
        return Climb(rows.index, rows.x, rows.y, points, gradient=torch.empty_like(points))


@dataclass(frozen=True)
class PGD(Ascent):
    """Projected gradient ascent on an objective within a ball; options are those of `Ascent`.

    `steps` steps of length `step`: by default 2.5 eps / steps, which is 2/255 for ten at 8/255.

    Raises BadInput where steps or restarts are below 1, the step is below 0, or the combination has
    no meaning.

    >>> from isthmus.data import Linf
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> x, y = torch.full((2, 1, 2, 2), 0.5), torch.tensor([0, 1])
    >>> moved = PGD(Linf(0.1), steps=3)(net, x, y) - x
    >>> bool(Linf(0.1).contains(moved).all())
    True
    """

    ball: Ball
    steps: int = 10
    step: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step is not None and not self.step >= 0:
            raise BadInput(
                f"step = {self.step}",
                expected="a length of 0 or more",
                fix="leave it out: 2.5 eps / steps",
            )

    def _sample(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        return moved(self.ball, x, self.ball.sample(x.shape, generator).to(x))

    def _step(self, victim: Victim, at: Climb) -> Tensor:
        length = 2.5 * self.ball.eps / self.steps if self.step is None else self.step
        return stepped(self.ball, at.x, at.points, at.gradient, length)


@dataclass(frozen=True)
class MSD(Ascent):
    """Multi steepest descent: projected ascent in the union of several balls; options are those of
    `Ascent`.

    Each step is tried in every ball, 2.5 eps / steps along its own steepest direction and projected
    onto it; each sample goes where its objective is then the highest. A step costs a gradient, and
    a forward pass for each ball. A random start is in one of the balls, drawn anew for each start.

    Raises BadInput where there is no ball, steps or restarts are below 1, or the combination has no
    meaning.

    >>> from isthmus.data import L2, Linf
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> x, y = torch.full((2, 1, 2, 2), 0.5), torch.tensor([0, 1])
    >>> moved = MSD((Linf(0.1), L2(0.1)), steps=3)(net, x, y) - x
    >>> bool((Linf(0.1).contains(moved) | L2(0.1).contains(moved)).all())
    True
    """

    balls: Sequence[Ball]
    steps: int = 10

    def __post_init__(self) -> None:
        object.__setattr__(self, "balls", tuple(self.balls))
        if not self.balls:
            raise BadInput(
                "no balls", expected="one or more", fix="pass (Linf(8 / 255), L2(0.5), L1(12))"
            )
        super().__post_init__()

    def _sample(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        ball = self.balls[int(torch.randint(len(self.balls), (), generator=generator))]
        return moved(ball, x, ball.sample(x.shape, generator).to(x))

    def _step(self, victim: Victim, at: Climb) -> Tensor:
        tried = [
            stepped(ball, at.x, at.points, at.gradient, 2.5 * ball.eps / self.steps)
            for ball in self.balls
        ]
        return highest(victim, tried, at.y, self.objective)


def stepped(ball: Ball, x: Tensor, points: Tensor, gradient: Tensor, length: float) -> Tensor:
    """Return the points after a step along the ball's steepest direction, projected onto ball and
    box.
    """
    # An l1 step spent on values that cannot move is lost; the projections of l-inf and l2 are
    # better left to it.
    direction = ball.steepest(inward(points, gradient) if isinstance(ball, L1) else gradient)
    return moved(ball, x, points - x + length * direction)


def highest(victim: Victim, tried: Sequence[Tensor], y: Tensor, objective: Objective) -> Tensor:
    """Return, for each sample, the one of several points at which the objective is highest; one
    forward pass each.
    """
    values = torch.stack([objective(victim.logits(points), y) for points in tried])
    return torch.stack(list(tried))[values.argmax(0), torch.arange(len(y), device=values.device)]


def moved(ball: Ball, x: Tensor, delta: Tensor) -> Tensor:
    """Return x plus the perturbation, projected onto ball and box together."""
    return (x + ball.project(delta, -x, 1 - x)).clamp(0, 1)


def inward(points: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient without the values that would push a point out of the box [0, 1]."""
    top = 1 - 4 * torch.finfo(points.dtype).eps  # x + (1 - x) can be a little less than 1
    return gradient.masked_fill(
        ((points >= top) & (gradient > 0)) | ((points <= 0) & (gradient < 0)), 0.0
    )


def fgsm(ball: Ball, seed: int | None = 0, precision: Precision | None = None) -> PGD:
    """Return the fast gradient sign method: one step of length eps from the input itself
    (Goodfellow et al.).
    """
    return PGD(ball, steps=1, step=ball.eps, random_start=False, seed=seed, precision=precision)
