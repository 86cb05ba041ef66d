"""Square attack: random search with squares of one color, without any gradient.

Source: Andriushchenko et al., ECCV 2020, Algorithms 1 to 3; section 3.2 for the schedule of sizes.

Where we depart: a draw that would leave the image as it is takes the opposite colors instead of
another draw (l-inf). l-inf and l2 only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import ceil, sqrt

import torch
from torch import Tensor

from isthmus.attacks.inputs.gradient import moved
from isthmus.attacks.inputs.objectives import margin
from isthmus.attacks.inputs.search import (
    QUERIES_PER_GRADIENT,
    Rows,
    Trial,
    TrialAttack,
    Visit,
    per_sample,
)
from isthmus.attacks.inputs.trace import note_gradient_free
from isthmus.attacks.inputs.victim import Victim, check_ball, check_counts
from isthmus.data.balls import L2, Linf
from isthmus.runs.devices import Precision
from isthmus.types import BadInput

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries


@dataclass(frozen=True)
class Square(TrialAttack):
    """Square attack within an l-inf or l2 ball, with `queries` forward passes per sample; `p` is
    the first size.

    The squares cover a share p of the image at first, less and less with the queries. Options are
    those of `APGD`. Raises BadInput for an l1 ball, a budget below 1, or p outside (0, 1].

    >>> from torch import nn
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    >>> x, y = torch.full((2, 1, 4, 4), 0.5), torch.tensor([0, 1])
    >>> bool(Linf(0.1).contains(Square(Linf(0.1), queries=5)(net, x, y) - x).all())
    True
    """

    ball: Linf | L2
    queries: int = 5000
    p: float = 0.8
    restarts: int = 1
    seed: int | None = 0
    precision: Precision | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        check_ball(self.ball, "Square")
        check_counts(queries=self.queries, restarts=self.restarts)
        if not 0 < self.p <= 1:
            raise BadInput(f"p = {self.p}", expected="0 < p <= 1", fix="leave p at 0.8")

    @property
    def gradients(self) -> int:
        """How many gradients its queries cost."""
        return ceil(self.queries / QUERIES_PER_GRADIENT) * self.restarts

    @property
    def random(self) -> bool:
        """Whether it draws, so that another seed may give other points: always."""
        return True

    def _trials(self, _: Tensor, __: Tensor) -> Iterable[Trial]:
        note_gradient_free()
        return [self._walk] * self.restarts

    def _walk(
        self, victim: Victim, rows: Rows, generator: torch.Generator | None
    ) -> Iterator[Visit]:
        start, change = (_tiles, _redistribute)
        if isinstance(self.ball, Linf):
            start, change = (_stripes, _recolor)
        draw = _Draws(generator, rows.x)
        value = torch.full_like(rows.x[:, 0, 0, 0], -torch.inf)
        at = _Walk(rows.index, rows.x, rows.y, rows.x, value)
        for query in range(self.queries):
            share = size_at(query / self.queries, self.p)
            if query:
                delta = change(self.ball, at.x, at.point, share, draw)
            else:
                delta = start(self.ball, at.x, draw)
            points = moved(self.ball, at.x, delta)
            logits = victim.logits(points)
            at.take(points, margin(logits, at.y))
            yield Visit(at, points, logits)


@dataclass
class _Walk(Rows):
    """The rows of a random search, with the best point of each so far and its margin."""

    point: Tensor
    value: Tensor

    def take(self, points: Tensor, values: Tensor) -> None:
        """Go to the points that are better than the best so far."""
        better = values > self.value
        self.value = torch.where(better, values, self.value)
        self.point = torch.where(per_sample(better, points), points, self.point)


def size_at(spent: float, p: float) -> float:
    """Return the share of the image that a square covers when this share of the queries is spent.

    >>> [size_at(spent, 0.8) for spent in (0.0, 0.004, 0.9)]
    [0.8, 0.4, 0.0015625]
    """
    return float(p / 2 ** sum(10_000 * spent > at for at in _HALVINGS))


@dataclass(frozen=True)
class _Draws:
    """Random choices for a batch, drawn on the CPU so that they are the same on every device."""

    generator: torch.Generator | None
    like: Tensor

    def signs(self, *shape: int) -> Tensor:
        return (torch.randint(0, 2, shape, generator=self.generator) * 2 - 1).to(self.like)

    def positions(self, n: int, limit: int) -> Tensor:
        return torch.randint(0, limit, (n,), generator=self.generator).to(self.like.device)

    def windows(self, x: Tensor, side: int) -> Tensor:
        """Return a window of this side at a random place for each sample, as (n, 2) of its top left
        corner.
        """
        n, _, height, width = x.shape
        return torch.stack(
            [self.positions(n, height - side + 1), self.positions(n, width - side + 1)], 1
        )


def _mask(x: Tensor, corner: Tensor, side: int) -> Tensor:
    """Return where the windows are, (n, 1, h, w) bool."""
    rows = torch.arange(x.shape[2], device=x.device)[None] - corner[:, :1]
    columns = torch.arange(x.shape[3], device=x.device)[None] - corner[:, 1:]
    return ((rows >= 0) & (rows < side))[:, None, :, None] & ((columns >= 0) & (columns < side))[
        :, None, None, :
    ]


def _stripes(ball: Linf | L2, x: Tensor, draw: _Draws) -> Tensor:
    """Vertical stripes of +-eps."""
    n, channels, _, width = x.shape
    return (ball.eps * draw.signs(n, channels, 1, width)).expand_as(x)


def _recolor(ball: Linf | L2, x: Tensor, point: Tensor, share: float, draw: _Draws) -> Tensor:
    """Set one square of each image to +-eps, one sign a channel (Algorithm 2)."""
    n, channels, height, width = x.shape
    side = min(max(1, round(sqrt(share * height * width))), height, width)
    mask, color = _mask(x, draw.windows(x, side), side), ball.eps * draw.signs(n, channels, 1, 1)
    now = point - x
    same = (torch.where(mask, (x + color).clamp(0, 1) - point, 0.0).flatten(1).abs() < 1e-7).all(1)
    color = torch.where(same[:, None, None, None], -color, color)
    return torch.where(mask, color, now)


def _pyramid(height: int, width: int) -> Tensor:
    """Return squares stacked into a pyramid (height, width), height >= width (Eq. 1)."""
    n = height // 2
    rows, columns = (torch.arange(k, dtype=torch.float64) - k // 2 for k in (height, width))
    levels = n - torch.maximum(rows.abs()[:, None], columns.abs()[None])
    terms = torch.cumsum(1 / (n + 1 - torch.arange(n + 1, dtype=torch.float64)) ** 2, 0)
    return terms[levels.clamp(0, n).long()]


def _bump(side: int) -> Tensor:
    """Return two pyramids side by side of opposite sign, (side, side), of unit norm."""
    half = side // 2
    bump = torch.cat([_pyramid(side, half), -_pyramid(side, side - half)], 1)
    return bump / bump.square().sum().sqrt()


def _bumps(side: int, n: int, draw: _Draws) -> Tensor:
    """Return one bump per sample, lying or standing, (n, 1, side, side)."""
    bump = _bump(side).to(draw.like)
    return torch.where(draw.signs(n, 1, 1, 1) > 0, bump, bump.T)


def _tiles(ball: Linf | L2, x: Tensor, draw: _Draws) -> Tensor:
    """A grid of bumps, five by five where the image is large enough, of norm eps."""
    n, channels, height, width = x.shape
    side = max(1, min(height, width) // 5)
    rows, columns = height // side, width // side
    signs = (
        draw.signs(n, channels, rows, columns).repeat_interleave(side, 2).repeat_interleave(side, 3)
    )
    delta = torch.zeros_like(x)
    delta[:, :, : rows * side, : columns * side] = signs * _bumps(side, n, draw).repeat(
        1, 1, rows, columns
    )
    return ball.eps * delta / ball.norm(delta)[:, None, None, None]


def _redistribute(ball: Linf | L2, x: Tensor, point: Tensor, share: float, draw: _Draws) -> Tensor:
    """Empty one window of each image and put what it held, and what was unused, into another
    (Algorithm 3).
    """
    n, channels, height, width = x.shape
    side = min(max(3, round(sqrt(share * height * width))), height, width)
    side -= side % 2 == 0
    delta = point - x
    into, out_of = draw.windows(x, side), draw.windows(x, side)
    inner, outer = _mask(x, into, side), _mask(x, out_of, side)
    unused = (ball.eps**2 - ball.norm(delta) ** 2).clamp_min(0)[:, None]
    held = (delta * (inner | outer)).square().flatten(2).sum(2)
    rows = into[:, 0, None] + torch.arange(side, device=x.device)
    columns = into[:, 1, None] + torch.arange(side, device=x.device)
    sample = torch.arange(n, device=x.device)[:, None, None]
    window = delta[sample, :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
    length = torch.linalg.vector_norm(window, dim=(2, 3), keepdim=True)
    fresh = draw.signs(n, channels, 1, 1) * _bumps(side, n, draw) + window / length.clamp_min(1e-12)
    fresh = fresh / torch.linalg.vector_norm(fresh, dim=(2, 3), keepdim=True).clamp_min(1e-12)
    fresh = fresh * (held + unused / channels).sqrt()[:, :, None, None]
    delta = delta * ~(inner | outer)
    delta[sample, :, rows[:, :, None], columns[:, None, :]] = fresh.movedim(1, -1)
    return delta
