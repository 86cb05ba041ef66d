"""FAB: the closest point on the other side of a decision boundary, by projections onto its
linearization.

Source: Croce and Hein, ICML 2020 ("Minimally distorted adversarial examples with a fast adaptive
boundary attack"), Algorithm 1, in the targeted form that AutoAttack uses: toward each of the
likeliest other classes in turn.

Where we depart: the search for a sample ends with the first fooling point inside the ball, since
the question is whether the ball holds one and not how far the nearest is; so there is no search
along the line at the end. l-inf and l2 only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from math import ceil

import torch
from torch import Tensor

from isthmus.attacks.inputs.gradient import moved
from isthmus.attacks.inputs.objectives import ranked, toward
from isthmus.attacks.inputs.search import (
    QUERIES_PER_GRADIENT,
    Rows,
    Trial,
    TrialAttack,
    Visit,
    per_sample,
)
from isthmus.attacks.inputs.victim import Victim, check_ball, check_counts
from isthmus.data.balls import Ball, Linf
from isthmus.runs.devices import Precision

_PULL, _OVERSHOOT, _BACK = 0.1, 1.05, 0.9  # alpha_max, eta and beta of the paper


def _filled(rate: Tensor, cap: Tensor, total: Tensor) -> Tensor:
    """Return the time (n,) at which sum_i min(time * rate_i, cap_i) reaches the total, the largest
    number if never.
    """
    ends, order = torch.where(rate > 0, cap / rate, torch.inf).sort(dim=1)
    rates, caps = rate.gather(1, order), cap.gather(1, order)
    done, left = caps.cumsum(1) - caps, rates.flip(1).cumsum(1).flip(1)  # before each one is full
    at = (done + torch.where(left > 0, left * ends, 0.0)).contiguous()
    k = torch.searchsorted(at.cummax(1).values, total[:, None]).clamp(max=rate.shape[1] - 1)
    time = ((total[:, None] - done.gather(1, k)) / left.gather(1, k)).squeeze(1)
    largest = torch.finfo(rate.dtype).max
    reached = torch.where(rate > 0, cap, 0.0).sum(1) > total
    return torch.where(reached, time.nan_to_num(largest, posinf=largest).clamp_min(0), largest)


def onto_plane(ball: Ball, x: Tensor, w: Tensor, value: Tensor) -> Tensor:
    """Return the least change delta, in the ball's norm, with <w, delta> = -value and x + delta in
    [0, 1].

    x and w (n, ...), value (n,). Where the box leaves no such change, the one that comes closest to
    it.
    """
    flat = x.flatten(1)
    weight = w.flatten(1)
    # the value has to rise along the weight by |value|
    weight = torch.where((value > 0)[:, None], -weight, weight)
    size = weight.abs()
    room = torch.where(weight > 0, 1 - flat, flat)
    speed = torch.ones_like(size) if isinstance(ball, Linf) else size
    time = _filled(size * speed, size * room, value.abs())
    return (weight.sign() * torch.minimum(time[:, None] * speed, room)).view_as(x)


@dataclass
class _Approach(Rows):
    """The rows of an approach, with the class to reach and the point of each."""

    target: Tensor
    point: Tensor


@dataclass(frozen=True)
class FAB(TrialAttack):
    """Fast adaptive boundary attack, targeted, within an l-inf or l2 ball. Options are those of
    `APGD`.

    The first restart begins at the input, further ones at random. Raises BadInput for an l1 ball or
    budgets below 1.

    >>> from torch import nn
    >>> from isthmus.data import L2
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> x, y = torch.full((2, 1, 2, 2), 0.5), torch.tensor([0, 1])
    >>> bool(L2(0.1).contains(FAB(L2(0.1), steps=5)(net, x, y) - x).all())
    True
    """

    ball: Ball
    steps: int = 100
    restarts: int = 1
    targets: int = 9
    seed: int | None = 0
    precision: Precision | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        check_ball(self.ball, "FAB")
        check_counts(steps=self.steps, restarts=self.restarts, targets=self.targets)

    @property
    def gradients(self) -> int:
        """How many gradients a sample costs that is never fooled, with all targets, of which a
        network of few classes has fewer, and the query that each step takes.
        """
        steps = self.steps * self.restarts * self.targets
        return steps + ceil(steps / QUERIES_PER_GRADIENT)

    @property
    def random(self) -> bool:
        """Whether it draws: for every restart after the first."""
        return self.restarts > 1

    def _trials(self, clean: Tensor, y: Tensor) -> Iterable[Trial]:
        others = min(self.targets, clean.shape[1] - 1)
        targets = [ranked(clean, y, rank) for rank in range(1, others + 1)]
        for restart in range(self.restarts):
            for target in targets:
                yield partial(self._approach, target, at_random=restart > 0)

    def _approach(
        self,
        targets: Tensor,
        victim: Victim,
        rows: Rows,
        generator: torch.Generator | None,
        *,
        at_random: bool,
    ) -> Iterator[Visit]:
        point = rows.x
        if at_random:
            draw = self.ball.sample(point.shape, generator).to(point)
            point = moved(self.ball, point, draw / 2)
        at = _Approach(rows.index, rows.x, rows.y, targets[rows.index], point)
        for _ in range(self.steps):
            toward_target = partial(toward, target=at.target)
            values, w, _logits = victim.gradient(at.point, at.y, toward_target)
            reached = self._next(at.x, at.point, w, values)
            logits = victim.logits(reached)
            across = per_sample(logits.argmax(1) != at.y, at.x)
            at.point = torch.where(across, at.x + _BACK * (reached - at.x), reached)
            inside = self.ball.contains(reached - at.x, 1e-7)
            yield Visit(at, reached, logits, gradient=w, counts=inside)

    def _next(self, x: Tensor, point: Tensor, w: Tensor, values: Tensor) -> Tensor:
        """Go onto the plane from the point and from the input, a little beyond, and mix: the nearer
        counts more.
        """
        from_point = onto_plane(self.ball, point, w, values)
        at_input = values + (w * (x - point)).flatten(1).sum(1)
        from_input = onto_plane(self.ball, x, w, at_input)
        near = self.ball.norm(from_point)
        far = self.ball.norm(from_input)
        pull = per_sample((near / (near + far)).nan_to_num(0.0).clamp(max=_PULL), x)
        mixed = (1 - pull) * (point + _OVERSHOOT * from_point) + pull * (
            x + _OVERSHOOT * from_input
        )
        return mixed.clamp(0, 1)
