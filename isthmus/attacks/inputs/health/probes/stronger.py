"""Do other attacks fool samples that still stand? By how much the robust accuracy would fall, at
least: the lower end of the 95 % interval of the share that they fool, times the share that stands.

Source: Pintor et al., NeurIPS 2022 (transfer failure, unconstrained attack); AutoAttack (Square
ahead of the gradient); Carlini et al., 2019, on what an evaluation has to try.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from isthmus.attacks.inputs.gradient import PGD
from isthmus.attacks.inputs.health.indicator import Run
from isthmus.attacks.inputs.health.probes.sample import some
from isthmus.attacks.inputs.objectives import Rescaled, margin
from isthmus.attacks.inputs.square import Square
from isthmus.data.balls import L1, L2, Ball, Linf
from isthmus.data.dataset import Data
from isthmus.metrics.passes import attacked
from isthmus.metrics.values import Rate
from isthmus.models.forward import forward_pass, logits_of
from isthmus.types import Attack, BadInput

QUERIES = 30
"""How many queries Square has for a probe."""


def fooled_by(run: Run, attack: Attack, samples: Data | None) -> Rate | None:
    """Return the share of samples that another attack fools; None where there are none, or the
    attack cannot run on the network.
    """
    if samples is None:
        return None
    try:
        moved = attacked(run.model, samples, attack)
    except BadInput:
        return None
    return _wrong(run, moved)


def _wrong(run: Run, moved: Data) -> Rate:
    """Return the share of samples that are fooled."""
    answers = run.passes.answers_afresh(moved)
    wrong = answers.logits.argmax(1) != moved.y
    return Rate(int((wrong & ~answers.undecided).sum()), len(moved))


def _on_standing(run: Run, make: Callable[[Ball], Attack]) -> float | None:
    """Return the fall of the robust accuracy under another attack on standing samples."""
    if run.ball is None:
        return None
    return _fall(run, fooled_by(run, make(run.ball), some(run, run.standing)))


def _fall(run: Run, fooled: Rate | None) -> float | None:
    """Return by how much the robust accuracy falls, at least, where this share of the standing
    samples is fooled.
    """
    return None if fooled is None else fooled.low * float(run.standing.double().mean())


def longer_attack(run: Run) -> float | None:
    """Return the fall of the robust accuracy under PGD that climbs the margin for 20 steps."""
    return _on_standing(run, lambda ball: PGD(ball, steps=20, objective=margin, seed=1))


def black_box(run: Run) -> float | None:
    """Return the fall of the robust accuracy under Square with 30 queries; None for l1."""
    if not isinstance(run.ball, Linf | L2) or run.clean.x.ndim != 4:
        return None
    return _on_standing(run, lambda ball: Square(ball, queries=QUERIES, seed=1))  # type: ignore[arg-type]


def rescaled(run: Run) -> float | None:
    """Return the fall of the robust accuracy under PGD on logits brought to mean 0 and a usual
    size.
    """
    if not bool(run.standing.any()):
        return None
    scale = float(run.clean_logits.std(1).median()) / 2
    objective = Rescaled(max(scale, 1e-30))
    return _on_standing(run, lambda ball: PGD(ball, steps=10, objective=objective, seed=1))


def transfer(run: Run) -> float | None:
    """Return the fall of the robust accuracy at points that PGD finds on a blurred copy: the mean
    logits over noise around the input.
    """
    samples = some(run, run.standing)
    if run.ball is None or samples is None or run.draws > 1:
        return None
    noise = _blur(run.ball, samples.x)
    surrogate = Blurred(run.model, noise)
    try:
        moved = attacked(surrogate, samples, PGD(run.ball, steps=6, returns="worst", seed=1))
    except BadInput:
        return None
    return _fall(run, _wrong(run, moved))


def _blur(ball: Ball, x: Tensor) -> float:
    """Return the standard deviation of the noise: that of points uniform in an l-inf ball."""
    values = 3.0 if isinstance(ball, Linf) else float(x[0].numel())
    return float(ball.eps) / math.sqrt(values)


class Blurred(nn.Module):
    """The mean logits of a network over noise around its input, the same two draws every time."""

    def __init__(self, model: nn.Module, deviation: float, draws: int = 2) -> None:
        super().__init__()
        self.model = model
        self.deviation = deviation
        self.draws = draws

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean logits, (n, classes), from one pass over all draws."""
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(self.draws, 1, *x.shape[1:], generator=generator).to(x)
        moved = (x + self.deviation * noise).clamp(0, 1)
        logits = logits_of(forward_pass(self.model, moved.flatten(0, 1)))
        return logits.view(self.draws, len(x), -1).mean(0)


def unconstrained(run: Run) -> float | None:
    """Return the share of right samples that PGD fools nowhere in the box: the lower end."""
    samples = some(run, run.right)
    if run.ball is None or samples is None:
        return None
    rate = fooled_by(run, PGD(whole_box(run.ball, samples.x), steps=10, seed=1), samples)
    return None if rate is None else Rate(rate.n - rate.hits, rate.n).low


def whole_box(ball: Ball, x: Tensor) -> Ball:
    """Return a ball of the same norm that holds all of [0, 1] around inputs (n, ...)."""
    values = float(x[0].numel())
    if isinstance(ball, Linf):
        return Linf(1.0)
    if isinstance(ball, L2):
        return L2(values**0.5)
    return L1(values) if isinstance(ball, L1) else Linf(1.0)


@dataclass(frozen=True)
class AtRadius:
    """The accuracy on some samples under PGD within a radius."""

    eps: float
    accuracy: Rate


def by_radius(
    run: Run, factors: tuple[float, ...], samples: Data | None, steps: int
) -> list[AtRadius]:
    """Return the accuracy on samples at factors of the radius, in that order; radii stay within
    [0, 1]. Empty without a ball of one radius, or samples.
    """
    ball = run.ball
    if samples is None or not isinstance(ball, Linf | L2 | L1):
        return []
    rows = []
    for factor in factors:
        largest = float(whole_box(ball, samples.x).eps)
        wider = replace(ball, eps=min(factor * ball.eps, largest))
        rate = fooled_by(run, PGD(wider, steps=steps, seed=1), samples)
        if rate is not None:
            rows.append(AtRadius(wider.eps, Rate(rate.n - rate.hits, rate.n)))
    return rows


FACTORS = (0.5, 4.0)
FACTOR_STEPS = 6
"""The radii at which a probe asks, as factors of the attack's, and how many steps PGD has there."""


def _probed_radii(run: Run) -> list[AtRadius]:
    """Return the accuracies at the probe's radii, which two indicators share."""
    return run.cached(
        "by radius", lambda: by_radius(run, FACTORS, some(run, run.right), FACTOR_STEPS)
    )


def rising(run: Run) -> float | None:
    """Return by how much the accuracy rises from one radius to a larger one, at most: the lower end
    of the interval.
    """
    rows = _probed_radii(run)
    pairs = [(a, b) for i, a in enumerate(rows) for b in rows[i + 1 :]]
    if not pairs:
        return None
    return max(max(0.0, b.accuracy.low - a.accuracy.high) for a, b in pairs)


def flat(run: Run) -> float | None:
    """Return the accuracy at four times the radius over that at half of it; None where the latter
    is below a tenth.
    """
    rows = _probed_radii(run)
    if len(rows) < 2 or rows[0].accuracy < 0.1:
        return None
    return float(rows[-1].accuracy) / float(rows[0].accuracy)


def changed_by_nothing(run: Run) -> float | None:
    """Return the share of samples whose answer the attack changes at eps = 0; None where the
    attack has no single ball. A few steps are enough.
    """
    samples = some(run, torch.ones(len(run.clean), dtype=torch.bool))
    still = _still(run.attack)
    if samples is None or still is None:
        return None
    try:
        moved = attacked(run.model, samples, still)
    except BadInput:
        return None
    before = run.passes.answers_afresh(samples)
    after = run.passes.answers_afresh(moved)
    changed = before.logits.argmax(1) != after.logits.argmax(1)
    return float((changed & ~after.undecided & ~before.undecided).double().mean())


def _still(attack: Any) -> Attack | None:
    """Return the attack at eps = 0 with two steps from one start; None where it is not made so."""
    ball = getattr(attack, "ball", None)
    if not isinstance(ball, Linf | L2 | L1):
        return None
    changes: dict[str, Any] = {"ball": replace(ball, eps=0.0)}
    for name, most in {"steps": 2, "queries": 2, "targets": 2, "restarts": 1}.items():
        if hasattr(attack, name):
            changes[name] = min(most, getattr(attack, name))
    still: Attack = replace(attack, **changes)
    return still
