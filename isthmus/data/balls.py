"""Balls of perturbations: where an attack may move an image, and how it moves there fastest.

Source: Madry et al., ICLR 2018 (l-inf, l2); Maini et al., ICML 2020 (l1 steps that move a few
values); Croce and Hein, ICML 2021, Prop. 2.1 (projection onto the l1 ball within the box). Every
operation acts on each sample on its own.

Where we depart: `project` takes bounds, and then returns the closest point of ball and box together
for every norm, where the usual code projects onto the ball first and clips afterward, which is not
the closest point for l2 and l1. One bisection serves both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Protocol

import torch
from torch import Tensor

from isthmus.types import BadInput


class Ball(Protocol):
    """All perturbations delta (n, ...) whose samples have a norm of at most `eps`, in units of x in
    [0, 1].
    """

    @property
    def eps(self) -> float:
        """The radius."""

    def norm(self, delta: Tensor) -> Tensor:
        """Return the norm of each sample, (n,)."""

    def project(
        self, delta: Tensor, low: Tensor | None = None, high: Tensor | None = None
    ) -> Tensor:
        """Return the closest point (Euclidean) of the ball, and of low <= delta <= high where low
        <= 0 <= high.
        """

    def steepest(self, gradient: Tensor) -> Tensor:
        """Return the direction of unit norm in which a function with this gradient rises fastest; 0
        where it is 0.
        """

    def sample(self, shape: Sequence[int], generator: torch.Generator | None = None) -> Tensor:
        """Return draws uniform in the ball, float32 on the CPU; from the global generator where
        none is given.
        """

    def contains(self, delta: Tensor, tolerance: float = 1e-6) -> Tensor:
        """Return whether each sample's norm is at most eps + tolerance, (n,) bool."""


def _check_radius(eps: float) -> None:
    if not (isfinite(eps) and eps >= 0):
        raise BadInput(
            f"eps = {eps}",
            expected="a finite radius >= 0",
            fix="give eps in units of x, such as 8/255",
        )


def _as(value: Tensor, like: Tensor) -> Tensor:
    """Shape (n,) to (n, 1, ...), to be spread over the values of each sample."""
    return value.view(-1, *[1] * (like.ndim - 1))


def _clipped(delta: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
    return delta if low is None and high is None else delta.clamp(low, high)


def _room(delta: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
    """How far each value may go from 0 in the direction it has."""
    up = torch.full_like(delta, inf) if high is None else high
    down = torch.full_like(delta, inf) if low is None else -low
    return torch.where(delta > 0, up, down)


def _outermost(inside: Callable[[Tensor], Tensor], top: Tensor) -> Tensor:
    """Return the largest value in [0, top], (n,), that is inside, to the last bit; all below one
    that is inside are.
    """
    low, high = torch.zeros_like(top), top
    for _ in range(62 if top.dtype == torch.float64 else 32):
        middle = (low + high) / 2
        good = inside(middle)
        low, high = torch.where(good, middle, low), torch.where(good, high, middle)
    return low


@dataclass(frozen=True)
class Linf:
    """The l-inf ball: no value moves by more than eps.

    Raises BadInput where eps is negative or not finite.

    >>> Linf(0.1).project(torch.tensor([[0.3, -0.05]])).tolist()
    [[0.10000000149011612, -0.05000000074505806]]
    """

    eps: float

    def __post_init__(self) -> None:
        _check_radius(self.eps)

    def norm(self, delta: Tensor) -> Tensor:
        """Return the largest absolute value of each sample, (n,)."""
        return delta.flatten(1).abs().amax(1)

    def project(
        self, delta: Tensor, low: Tensor | None = None, high: Tensor | None = None
    ) -> Tensor:
        """Return the closest point of the ball and of low <= delta <= high."""
        return _clipped(delta.clamp(-self.eps, self.eps), low, high)

    def steepest(self, gradient: Tensor) -> Tensor:
        """Return the sign of the gradient."""
        return gradient.sign()

    def sample(self, shape: Sequence[int], generator: torch.Generator | None = None) -> Tensor:
        """Return draws uniform in the ball."""
        return self.eps * (2 * torch.rand(tuple(shape), generator=generator) - 1)

    def contains(self, delta: Tensor, tolerance: float = 1e-6) -> Tensor:
        """Return whether each sample is in the ball, (n,) bool."""
        return self.norm(delta) <= self.eps + tolerance


@dataclass(frozen=True)
class L2:
    """The Euclidean ball. Raises BadInput where eps is negative or not finite.

    >>> L2(1.0).project(torch.tensor([[3.0, 4.0]])).norm().item()
    1.0
    """

    eps: float

    def __post_init__(self) -> None:
        _check_radius(self.eps)

    def norm(self, delta: Tensor) -> Tensor:
        """Return the Euclidean norm of each sample, (n,)."""
        norms: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
        return norms

    def project(
        self, delta: Tensor, low: Tensor | None = None, high: Tensor | None = None
    ) -> Tensor:
        """Return the closest point of the ball and of low <= delta <= high: clip(s delta) for one s
        per sample.
        """
        if low is None and high is None:
            return delta * _as((self.eps / self.norm(delta)).nan_to_num(1.0).clamp(max=1), delta)
        clipped = _clipped(delta, low, high)
        if bool(self.contains(clipped, 0.0).all()):
            return clipped
        sizes, room = delta.flatten(1).abs(), _room(delta, low, high).flatten(1)
        top = torch.ones_like(sizes[:, 0])
        s = _outermost(lambda s: self.contains(torch.minimum(s[:, None] * sizes, room), 0.0), top)
        return torch.where(
            _as(self.contains(clipped, 0.0), delta),
            clipped,
            _clipped(delta * _as(s, delta), low, high),
        )

    def steepest(self, gradient: Tensor) -> Tensor:
        """Return the gradient at unit length."""
        largest = gradient.flatten(1).abs().amax(1).clamp_min(torch.finfo(gradient.dtype).tiny)
        # Scaled first: the squares of small gradients would underflow.
        scaled = gradient / _as(largest, gradient)
        return scaled / _as(self.norm(scaled).clamp_min(1.0), gradient)

    def sample(self, shape: Sequence[int], generator: torch.Generator | None = None) -> Tensor:
        """Return draws uniform in the ball: a uniform direction, and the d-th root of a uniform
        share as radius.
        """
        direction = torch.randn(tuple(shape), generator=generator)
        radius = torch.rand(shape[0], generator=generator) ** (1 / direction[0].numel())
        return self.eps * direction * _as(radius / self.norm(direction), direction)

    def contains(self, delta: Tensor, tolerance: float = 1e-6) -> Tensor:
        """Return whether each sample is in the ball, (n,) bool."""
        return self.norm(delta) <= self.eps + tolerance


@dataclass(frozen=True)
class L1:
    """The l1 ball: absolute changes sum to eps at most.

    A step moves the `share` of the values that raise most.

    A share of 0 moves one value, the true direction of steepest ascent; more values per step get
    along faster (Maini et al. move 5 to 20 of 3,072). Raises BadInput where eps is negative or not
    finite, or the share is not in [0, 1].

    >>> L1(1.0).project(torch.tensor([[0.9, 0.5, 0.1]])).tolist()[0][2]
    0.0
    """

    eps: float
    share: float = 0.01

    def __post_init__(self) -> None:
        _check_radius(self.eps)
        if not 0 <= self.share <= 1:
            raise BadInput(
                f"share = {self.share}",
                expected="0 <= share <= 1",
                fix="pass share=0.01: a step moves that share of the values",
            )

    def norm(self, delta: Tensor) -> Tensor:
        """Return the sum of absolute values of each sample, (n,)."""
        return delta.flatten(1).abs().sum(1)

    def project(
        self, delta: Tensor, low: Tensor | None = None, high: Tensor | None = None
    ) -> Tensor:
        """Return the closest point of the ball and of low <= delta <= high: what exceeds one
        threshold, clipped.
        """
        clipped = _clipped(delta, low, high)
        if bool(self.contains(clipped, 0.0).all()):
            return clipped
        sizes, room = delta.flatten(1).abs(), _room(delta, low, high).flatten(1)
        top = sizes.amax(1)

        def kept(spared: Tensor) -> Tensor:
            return torch.minimum((sizes - (top - spared)[:, None]).clamp_min(0), room)

        spared = _outermost(lambda spared: self.contains(kept(spared), 0.0), top)
        inside = self.contains(clipped, 0.0)
        return torch.where(_as(inside, delta), clipped, delta.sign() * kept(spared).view_as(delta))

    def steepest(self, gradient: Tensor) -> Tensor:
        """Return the best direction of unit norm that spreads evenly over the share: 1 / k on the k
        largest values.
        """
        flat = gradient.flatten(1)
        k = max(1, round(self.share * flat.shape[1]))
        largest = flat.abs().topk(k, dim=1).indices
        step = torch.zeros_like(flat).scatter_(1, largest, flat.gather(1, largest).sign() / k)
        return step.view_as(gradient)

    def sample(self, shape: Sequence[int], generator: torch.Generator | None = None) -> Tensor:
        """Return draws uniform in the ball: d of d + 1 exponential shares of the whole, with random
        signs.
        """
        flat = torch.Size(shape[1:]).numel()
        parts = torch.empty(shape[0], flat + 1).exponential_(generator=generator)
        signs = torch.randint(0, 2, (shape[0], flat), generator=generator) * 2 - 1
        return (self.eps * signs * parts[:, 1:] / parts.sum(1, keepdim=True)).view(tuple(shape))

    def contains(self, delta: Tensor, tolerance: float = 1e-6) -> Tensor:
        """Return whether each sample is in the ball, (n,) bool."""
        return self.norm(delta) <= self.eps + tolerance
