"""What an indicator is, and the run of an attack that it looks at."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from torch import Tensor, nn

from isthmus.attacks.inputs.memory import Memory, Track
from isthmus.data.balls import Ball
from isthmus.data.dataset import Data
from isthmus.metrics.health import Finding, Health
from isthmus.metrics.passes import Passes
from isthmus.runs.identity import identity_of
from isthmus.types import Attack

Value = TypeVar("Value")


@dataclass(frozen=True, eq=False)
class Run:
    """An attack that was run: passes of the network, the samples before and after, and what it
    remembered.

    The network's answers are computed once; those of a random network are means over draws.
    """

    passes: Passes
    attack: Attack
    clean: Data
    moved: Data
    memory: Memory
    _shared: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    @property
    def model(self) -> nn.Module:
        """The network that was attacked."""
        return self.passes.model

    @property
    def draws(self) -> int:
        """How many passes of the network make one answer."""
        return self.passes.answers(self.moved).draws

    @property
    def clean_logits(self) -> Tensor:
        """The logits before the attack, (n, classes)."""
        return self.passes.answers(self.clean).logits

    @property
    def moved_logits(self) -> Tensor:
        """The logits after the attack, (n, classes)."""
        return self.passes.answers(self.moved).logits

    @property
    def undecided(self) -> Tensor:
        """Of which samples the draws leave open whether they are fooled, (n,) bool."""
        return self.passes.answers(self.moved).undecided

    def cached(self, name: str, compute: Callable[[], Value]) -> Value:
        """Return a value that several indicators share, computed once."""
        if name not in self._shared:
            self._shared[name] = compute()
        value: Value = self._shared[name]
        return value

    @cached_property
    def right(self) -> Tensor:
        """Which samples are right before the attack, (n,) bool."""
        return self.clean_logits.argmax(1) == self.clean.y

    @cached_property
    def standing(self) -> Tensor:
        """Which samples are right after the attack, (n,) bool."""
        return self.moved_logits.argmax(1) == self.moved.y

    @property
    def tracks(self) -> list[Track]:
        """What the climbs left, of batches in which a sample still stands."""
        return [track for track in self.memory.tracks if bool(track.standing.any())]

    @property
    def ball(self) -> Ball | None:
        """The ball of the attack; of several, the first one."""
        return ball_of(self.attack)


def ball_of(attack: object) -> Ball | None:
    """Return the ball of an attack, of the first of several, or of what it wraps; None without."""
    ball: Ball | None = getattr(attack, "ball", None)
    if ball is not None:
        return ball
    for name in ("balls", "attacks"):
        parts = getattr(attack, name, ())
        if parts:
            return parts[0] if name == "balls" else ball_of(parts[0])
    inner = getattr(attack, "attack", None)
    return None if inner is None else ball_of(inner)


@dataclass(frozen=True)
class Indicator:
    """A question about a run, with the value from which on it fires.

    `measure` returns None where the question has no answer. `source` says where the threshold comes
    from, `meaning` what it means that the indicator fires, `advice` what to do about it.
    """

    name: str
    measure: Callable[[Run], float | None]
    threshold: float
    source: str
    meaning: str
    advice: str
    decisive: bool = True
    below: bool = False

    def finding(self, run: Run) -> Finding:
        """Return what it says of a run."""
        return Finding(self.name, self.measure(run), self.threshold, self.decisive, self.below)


def judged(run: Run, indicators: Iterable[Indicator]) -> Health:
    """Return what the indicators say of a run."""
    rows = sorted(indicators, key=lambda indicator: not indicator.decisive)
    findings = [(indicator, indicator.finding(run)) for indicator in rows]
    warnings = [
        f"{indicator.name}: {indicator.meaning}; {indicator.advice}"
        for indicator, finding in findings
        if finding.fired
    ]
    undecided = float(run.undecided.float().mean()) if len(run.undecided) else 0.0
    return Health(
        identity_of(run.attack),
        len(run.clean),
        tuple(finding for _, finding in findings),
        tuple(warnings),
        run.draws,
        undecided,
    )
