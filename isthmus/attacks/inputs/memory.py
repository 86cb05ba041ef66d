"""What a run of attacks remembers of its looks: the objective after each step, the last point and
gradient of each trial, which samples were ever fooled.

Nothing is remembered, and nothing is spent, unless a `Memory` is open around the run. Only trials
that climb along a gradient leave a `Track`; of others it is known which samples they fooled.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from typing import Protocol

import torch
from torch import Tensor

from isthmus.data.balls import Ball, Linf

TOLERANCE = 0.01
"""The movement, as a share of the ball's radius, below which a trial has settled."""

_SAME_DIRECTION = 0.999  # the cosine above which two perturbations are one maximum


class _Rows(Protocol):
    @property
    def index(self) -> Tensor: ...


class LookedAt(Protocol):
    """A look of an attack at one point of each row, as `search.Visit` has it."""

    @property
    def rows(self) -> _Rows:
        """The rows, by their places in the batch."""

    @property
    def points(self) -> Tensor:
        """The points, (rows, ...)."""

    @property
    def logits(self) -> Tensor:
        """The logits there, (rows, classes)."""

    @property
    def gradient(self) -> Tensor | None:
        """The gradient in the input, where it was taken."""

    @property
    def counts(self) -> Tensor | None:
        """Which points may be returned, (rows,) bool; None is all of them."""


@dataclass(frozen=True)
class Track:
    """What the climbs of an attack over one batch of n samples left, from `trials` starts.

    `values` (trials, steps, n) is the objective at each look, NaN where a sample had left;
    `standing` (n,) bool says which samples were attacked and not fooled. For each trial and sample:
    `aligned`, how far the last perturbation agrees with the gradient there; `edge`, its norm over
    the radius; `settled`, the step after which it moved no more, infinite if it always did.
    `maxima` (n,) counts the different directions in which the trials ended. `blind` and
    `blind_at_start` (n,) bool say where the gradient was zero, at all looks or at the first. With
    `restarts`, the trials are starts of one and the same climb.
    """

    values: Tensor
    standing: Tensor
    aligned: Tensor
    edge: Tensor
    settled: Tensor
    maxima: Tensor
    blind: Tensor
    blind_at_start: Tensor
    restarts: bool

    @property
    def trials(self) -> int:
        """How many climbs there were."""
        return len(self.values)


@dataclass
class Memory:
    """What the runs inside a block leave: tracks, and of the outermost run which samples were ever
    seen fooled, (n,) bool. `draws` is how many passes of the network made one answer.
    """

    tracks: list[Track] = field(default_factory=list)
    fooled: list[Tensor] = field(default_factory=list)
    draws: int = 1
    depth: int = 0

    def state(self) -> dict[str, Tensor]:
        """Return all that is remembered as tensors by name, for a file."""
        state = {"draws": torch.tensor(self.draws)}
        for i, fooled in enumerate(self.fooled):
            state[f"fooled.{i}"] = fooled
        for i, track in enumerate(self.tracks):
            for entry in fields(track):
                state[f"track.{i}.{entry.name}"] = torch.as_tensor(getattr(track, entry.name))
        return state

    def add(self, state: Mapping[str, Tensor]) -> None:
        """Remember what another memory's `state` holds as well."""
        self.draws = max(self.draws, int(state["draws"]))
        for i in itertools.count():
            if f"fooled.{i}" not in state:
                break
            self.fooled.append(state[f"fooled.{i}"])
        for i in itertools.count():
            if f"track.{i}.values" not in state:
                break
            parts = {entry.name: state[f"track.{i}.{entry.name}"] for entry in fields(Track)}
            restarts = bool(parts.pop("restarts"))
            self.tracks.append(Track(**parts, restarts=restarts))


_reader: ContextVar[Memory | None] = ContextVar("the memory of the innermost block", default=None)


@contextmanager
def remembering() -> Iterator[Memory]:
    """Run a block and yield the memory of the attacks in it."""
    memory = Memory()
    token = _reader.set(memory)
    try:
        yield memory
    finally:
        _reader.reset(token)


@contextmanager
def remembered(
    x: Tensor, y: Tensor, ball: Ball | None, *, draws: int, restarts: bool
) -> Iterator[Tape | None]:
    """Run an attack on one batch and yield what records it; None where nobody reads.

    At the end, its track goes to the memory around the block.
    """
    memory = _reader.get()
    if memory is None:
        yield None
        return
    tape = Tape(x, y, ball, restarts=restarts)
    memory.depth += 1
    memory.draws = max(memory.draws, draws)
    try:
        yield tape
    finally:
        memory.depth -= 1
    if memory.depth == 0:
        memory.fooled.append(tape.fooled.cpu())
    track = tape.track()
    if track is not None:
        memory.tracks.append(track)


class Tape:
    """Records the looks of an attack on one batch."""

    def __init__(self, x: Tensor, y: Tensor, ball: Ball | None, *, restarts: bool) -> None:
        self.x = x
        self.ball = ball
        self.restarts = restarts
        self.labels = y if y.ndim == 1 else y.argmax(1)
        self.fooled = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.met = torch.zeros_like(self.fooled)
        self.left = torch.zeros_like(self.fooled)
        self.moved = torch.zeros_like(self.fooled)
        self.blind_at_start = torch.zeros_like(self.fooled)
        self._looked = torch.zeros_like(self.fooled)
        self._climbs: list[_TrialSoFar] = []
        self._ends: list[Tensor] = []

    def start(self) -> None:
        """Begin another trial."""
        self._finish()
        self._climbs.append(_TrialSoFar(self.x))

    def look(self, visit: LookedAt, values: Tensor, fooled: Tensor) -> None:
        """Record a look: the objective's values and which rows it fools, (rows,)."""
        index = visit.rows.index
        wrong = visit.logits.argmax(1) != self.labels[index]
        if visit.counts is not None:
            wrong = wrong & visit.counts
        self.fooled[index] |= wrong
        self.met[index] = True
        self.left[index] |= fooled
        climb = self._climbs[-1]
        if visit.counts is not None or (visit.gradient is None and not climb.values):
            return
        if visit.gradient is not None:
            self._note_gradient(index, visit.gradient)
        climb.look(visit, values)

    def _note_gradient(self, index: Tensor, gradient: Tensor) -> None:
        zero = gradient.flatten(1).abs().amax(1) == 0
        first = ~self._looked[index]
        self.blind_at_start[index] |= zero & first
        self._looked[index] = True
        self.moved[index] |= ~zero

    def _finish(self) -> None:
        """Measure the trial that has ended, and free its points."""
        if self._climbs and self._climbs[-1].values and self.ball is not None:
            self._climbs[-1].finish(self.x, self.ball)

    def track(self) -> Track | None:
        """Return what the climbs left; None where nothing climbed in a ball."""
        self._finish()
        climbs = [climb for climb in self._climbs if climb.values]
        if not climbs or self.ball is None:
            return None
        longest = max(len(climb.values) for climb in climbs)
        nothing = torch.full_like(climbs[0].values[0], torch.nan)
        rows = [
            torch.stack([*climb.values, *[nothing] * (longest - len(climb.values))])
            for climb in climbs
        ]
        return Track(
            values=torch.stack(rows).float().cpu(),
            standing=(self.met & ~self.left).cpu(),
            aligned=torch.stack([climb.aligned for climb in climbs]).cpu(),
            edge=torch.stack([climb.edge for climb in climbs]).cpu(),
            settled=torch.stack([climb.settled for climb in climbs]).cpu(),
            maxima=_distinct(torch.stack([climb.points for climb in climbs]) - self.x).cpu(),
            blind=(self._looked & ~self.moved).cpu(),
            blind_at_start=self.blind_at_start.cpu(),
            restarts=self.restarts,
        )


class _TrialSoFar:
    """One trial: its values, its points, and the last look that took a gradient."""

    def __init__(self, x: Tensor) -> None:
        n = len(x)
        self.points = x.clone()
        self.values: list[Tensor] = []
        self.movement: list[Tensor] = []
        self.aligned = torch.full((n,), torch.nan, device=x.device)
        self.edge = torch.full((n,), torch.nan, device=x.device)
        self.settled = torch.full((n,), torch.nan, device=x.device)
        self._last: tuple[Tensor, Tensor, Tensor] | None = None

    def look(self, visit: LookedAt, values: Tensor) -> None:
        """Take in a look at the rows that still stand."""
        index = visit.rows.index
        row = torch.full_like(self.aligned, torch.nan, dtype=values.dtype)
        row[index] = values.detach()
        if self.values:
            change = (visit.points - self.points[index]).flatten(1)
            moved = torch.full_like(self.aligned, torch.nan)
            moved[index] = change.norm(dim=1).to(moved)
            self.movement.append(moved)
        self.values.append(row)
        self.points[index] = visit.points.detach()
        if visit.gradient is not None:
            self._last = (index, visit.points.detach(), visit.gradient)

    def finish(self, x: Tensor, ball: Ball) -> None:
        """Measure the end: agreement with the gradient, norm, and when it stopped moving."""
        self.edge = (ball.norm(self.points - x) / max(ball.eps, 1e-30)).to(self.edge)
        self.settled = _settled(self.movement, TOLERANCE * radius(ball, x), self.settled)
        if self._last is None:
            return
        index, points, gradient = self._last
        self.aligned[index] = alignment(ball, x[index], points, gradient).to(self.aligned)
        self._last = None


def radius(ball: Ball, x: Tensor) -> float:
    """Return the largest Euclidean norm of a perturbation in the ball of inputs (n, ...)."""
    return ball.eps * (x[0].numel() ** 0.5 if isinstance(ball, Linf) else 1.0)


def _settled(movement: list[Tensor], least: float, nothing: Tensor) -> Tensor:
    """Return the first step that moved each sample by `least` or less, infinite where none did."""
    if not movement:
        return torch.full_like(nothing, torch.inf)
    still = torch.stack(movement) <= least
    first = still.float().argmax(0) + 1
    return torch.where(still.any(0), first.to(nothing), torch.inf)


def alignment(ball: Ball, x: Tensor, points: Tensor, gradient: Tensor) -> Tensor:
    """Return how far each perturbation agrees with the gradient there, (n,): 1 at a maximum.

    For l-inf the share of values that are at eps in the gradient's direction, or at the bound of
    the box that it points out of, weighted by the gradient's size. For other balls the cosine of
    perturbation and gradient, over the values that the box leaves free. NaN where the gradient is
    zero. Source: the condition of a maximum on the sphere, Deng et al., ICML 2020.
    """
    delta = (points - x).flatten(1)
    slope = gradient.flatten(1)
    at = points.flatten(1)
    blocked = ((at <= 1e-6) & (slope < 0)) | ((at >= 1 - 1e-6) & (slope > 0))
    if isinstance(ball, Linf):
        size = slope.abs()
        agrees = blocked | (delta * slope.sign() >= (1 - 1e-3) * ball.eps)
        weighted: Tensor = (size * agrees).sum(1)
        return weighted / size.sum(1)
    slope = slope.masked_fill(blocked, 0.0)
    delta = delta.masked_fill(blocked, 0.0)
    cosine = torch.nn.functional.cosine_similarity(slope, delta, dim=1)
    return torch.where(slope.any(1), cosine, torch.nan)


def _distinct(deltas: Tensor) -> Tensor:
    """Return how many different directions the perturbations (trials, n, ...) have, (n,).

    A trial is counted where no earlier one has a cosine above 0.999 with it.
    """
    flat = torch.nn.functional.normalize(deltas.flatten(2), dim=2)
    cosines = torch.einsum("anv,bnv->nab", flat, flat)
    earlier = torch.tril(torch.ones_like(cosines[0]), diagonal=-1).bool()
    repeats = ((cosines > _SAME_DIRECTION) & earlier).any(2)
    return (~repeats).sum(1)
