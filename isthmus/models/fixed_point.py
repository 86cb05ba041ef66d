"""Fixed points z = relu(A z + u): linear operators, the iterations that solve for z, and the
gradient through the solution.

Source: Jafarpour et al., NeurIPS 2021 (well-posedness by the matrix measure mu(A) < 1, the averaged
iteration); L4DC 2022 (the embedded system of a box). Where we depart: by default each value of the
state takes its own step, and its own part of A z is eliminated; the contraction factor is that of
the averaged iteration with the largest step of each row.

Where mu(A) < 1 in a norm max_i |z_i| / eta_i, there is a v > 0 with (I - S) v > 0, S being |A| off
the diagonal and A on it. `sensitivity` gives one in the scale of a direct step: by how much that
changes a state, times v, bounds its distance to the fixed point, value by value.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from isthmus.types import BadInput

_POWERS = 2000

Method = Literal["direct", "averaged", "anderson"]


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Run a block in the precision of its tensors: without autocast, and without TF32 on CUDA.

    In fewer bits a residual never falls to the tolerance, and a bound of rounding errors is wrong.
    """
    with torch.autocast(device.type, enabled=False):
        if device.type != "cuda":
            yield
            return
        cudnn = torch.backends.cudnn
        settings = (cudnn.enabled, cudnn.benchmark, cudnn.deterministic)
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            with cudnn.flags(*settings, allow_tf32=False):
                yield
        finally:
            torch.set_float32_matmul_precision(before)


class Operator(ABC):
    """A square linear operator A on states (n, ...) and the positive weights eta of its norm."""

    eta: Tensor

    @abstractmethod
    def __call__(self, z: Tensor) -> Tensor:
        """Return A z."""

    @abstractmethod
    def adjoint(self, v: Tensor) -> Tensor:
        """Return A^T v."""

    @property
    @abstractmethod
    def diagonal(self) -> Tensor:
        """A_ii, in a shape that broadcasts with a state."""

    @abstractmethod
    def with_diagonal(self, diagonal: Tensor | float) -> Operator:
        """Return the operator with another diagonal."""

    def plus(self, z: Tensor, injected: Tensor) -> Tensor:
        """Return A z + injected."""
        return self(z) + injected


class Weights(Operator):
    """An operator whose entries are at hand: they can be split by sign, and cast."""

    @abstractmethod
    def to(self, dtype: torch.dtype) -> Self:
        """Return the operator in another precision."""

    @abstractmethod
    def absolute(self) -> Self:
        """Return |A|."""

    @property
    @abstractmethod
    def fan(self) -> int:
        """How many entries a row of A has at most."""

    def metzler(self) -> Weights:
        """Return |A| off the diagonal and A on it: how the radius of a box moves."""
        spread: Weights = self.absolute().with_diagonal(self.diagonal)  # type: ignore[assignment]
        return spread

    @torch.no_grad()
    def measure(self) -> float:
        """Return mu(A), the matrix measure in the norm of eta: a fixed point exists where it is
        below 1.
        """
        eta = self.eta[None]
        return float((self.metzler()(eta) / eta).amax())


@dataclass(frozen=True, eq=False)
class Dense(Weights):
    """A matrix (d, d) on states (n, d).

    >>> Dense(torch.tensor([[-0.25, -0.25], [0.75, -0.25]]), torch.ones(2)).measure()
    0.5
    """

    matrix: Tensor
    eta: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        return F.linear(z, self.matrix)

    def plus(self, z: Tensor, injected: Tensor) -> Tensor:
        return torch.addmm(injected, z, self.matrix.T)

    def adjoint(self, v: Tensor) -> Tensor:
        return v @ self.matrix

    @property
    def diagonal(self) -> Tensor:
        return self.matrix.diagonal()

    @property
    def fan(self) -> int:
        return len(self.matrix)

    def with_diagonal(self, diagonal: Tensor | float) -> Dense:
        changed = torch.as_tensor(diagonal).to(self.matrix) - self.diagonal
        return replace(self, matrix=self.matrix + torch.diag_embed(changed.expand(self.fan)))

    def to(self, dtype: torch.dtype) -> Dense:
        return Dense(self.matrix.to(dtype), self.eta.to(dtype))

    def absolute(self) -> Dense:
        return replace(self, matrix=self.matrix.abs())


@dataclass(frozen=True, eq=False)
class Convolution(Weights):
    """A kernel (c, c, k, k) of odd k without its own center, and the diagonal; states (n, c, h, w).

    `padding` is "circular" or "constant" (zeros); the diagonal broadcasts with (n, c, h, w). The
    kernel's centers [o, o] are part of the diagonal and zero in the kernel.
    """

    kernel: Tensor
    own: Tensor
    eta: Tensor
    padding: Literal["circular", "constant"]

    def _convolved(self, z: Tensor, kernel: Tensor) -> Tensor:
        half = kernel.shape[-1] // 2
        if self.padding == "constant":
            return F.conv2d(z, kernel, padding=half)
        return F.conv2d(F.pad(z, (half,) * 4, mode="circular"), kernel)

    def __call__(self, z: Tensor) -> Tensor:
        return self._convolved(z, self.kernel) + self.own * z

    def adjoint(self, v: Tensor) -> Tensor:
        return self._convolved(v, self.kernel.transpose(0, 1).flip(2, 3)) + self.own * v

    @property
    def diagonal(self) -> Tensor:
        return self.own

    @property
    def fan(self) -> int:
        return self.kernel[0].numel() + 1

    def with_diagonal(self, diagonal: Tensor | float) -> Convolution:
        return replace(self, own=torch.as_tensor(diagonal).to(self.own))

    def to(self, dtype: torch.dtype) -> Convolution:
        return replace(
            self, kernel=self.kernel.to(dtype), own=self.own.to(dtype), eta=self.eta.to(dtype)
        )

    def absolute(self) -> Convolution:
        return replace(self, kernel=self.kernel.abs(), own=self.own.abs())


@dataclass(frozen=True, eq=False)
class Embedded(Operator):
    """The operator of a box: states (2 n, ...), lower ends first, whose center moves by `center`
    and radius by `radius`.

    With the radius moved by `metzler()` it is the mixed monotone embedding, with `absolute()`
    interval arithmetic.
    """

    center: Operator
    radius: Operator

    def _moved(self, z: Tensor, center: Operator, radius: Operator, *, back: bool) -> Tensor:
        lower, upper = z.chunk(2)
        middle = torch.lerp(lower, upper, 0.5)
        half = (upper - lower).mul_(0.5)
        middle = center.adjoint(middle) if back else center(middle)
        half = radius.adjoint(half) if back else radius(half)
        return torch.cat([middle - half, middle + half])

    def __call__(self, z: Tensor) -> Tensor:
        return self._moved(z, self.center, self.radius, back=False)

    def adjoint(self, v: Tensor) -> Tensor:
        return self._moved(v, self.center, self.radius, back=True)

    @property
    def eta(self) -> Tensor:  # type: ignore[override]
        """That of the center."""
        return self.center.eta

    @property
    def diagonal(self) -> Tensor:
        return (self.center.diagonal + self.radius.diagonal) / 2

    def with_diagonal(self, diagonal: Tensor | float) -> Embedded:
        across = (self.center.diagonal - self.radius.diagonal) / 2
        return Embedded(
            self.center.with_diagonal(diagonal + across),
            self.radius.with_diagonal(diagonal - across),
        )


@torch.no_grad()
def sensitivity(spread: Weights, like: Tensor) -> Tensor | None:
    """Return v (1, ...): a state that a direct step changes by r at most is within v r of the fixed
    point.

    That holds where v >= D S' v + 1, S' the spread off its diagonal and D = 1 / (1 - its diagonal).
    None where there is no such v: then there need be no fixed point. Rounding counts against it.
    """
    rest = spread.with_diagonal(0.0)
    own = (1 / (1 - spread.diagonal)).expand(like.shape[1:])[None]
    if not bool((spread.diagonal < 1).all()):
        return None
    ones = torch.ones_like(own)
    v = ones
    if isinstance(rest, Dense):
        v = torch.linalg.solve(torch.diag_embed(1 / own[0]) - rest.matrix, 1 / own[0])[None]
    for _ in range(_POWERS):
        new = own * rest(v) + 1
        rounding = (spread.fan + 8) * torch.finfo(like.dtype).eps * new.abs()
        gap = float((v - new + 1 - rounding).amin())
        if bool((v > 0).all()) and gap > 0.9:
            return v / gap
        v = torch.maximum(new, ones)
        if not bool(v.amax() < 1e12):
            return None
    return None


@dataclass(frozen=True)
class Solution:
    """How a fixed point was reached.

    `residual` is the largest change of a sample in a direct step, over 1 + its largest value.
    """

    residual: float
    iterations: int
    converged: bool


@dataclass(frozen=True)
class Solver:
    """How fixed points are solved for, and when that stops. Raises BadInput where a setting has no
    meaning.

    It stops once a direct step changes no value of a sample by more than the tolerance, relative to
    1 + the sample's largest value; or after `iterations`. "direct" gives each value its own
    step, "averaged" all values the largest that all admit, "anderson" extrapolates the direct
    iteration from its last `memory` steps.
    """

    tolerance: float = 1e-6
    iterations: int = 1000
    method: Method = "direct"
    memory: int = 4
    every: int = 5

    def __post_init__(self) -> None:
        if not (self.tolerance > 0 and min(self.iterations, self.memory, self.every) >= 1):
            raise BadInput(
                f"tolerance {self.tolerance}, {self.iterations} iterations",
                expected="a tolerance above 0, and 1 iteration or more",
                fix="leave them out: 1e-6, 1000",
            )
        if self.method not in ("direct", "averaged", "anderson"):
            raise BadInput(
                f"method {self.method!r}",
                expected="direct, averaged or anderson",
                fix="pass method='direct'",
            )

    @torch.no_grad()
    def solve(
        self, operator: Operator, injected: Tensor, start: Tensor | None = None
    ) -> tuple[Tensor, Solution]:
        """Return z with z = relu(A z + injected) to the tolerance, and how it was reached."""
        direct = iteration(operator, injected)
        averaged = self.method == "averaged"
        step = iteration(operator, injected, averaged=True) if averaged else direct
        z = torch.zeros_like(injected) if start is None else start
        advance = _Anderson(self.memory) if self.method == "anderson" else None
        residual = float("inf")
        count = 0
        while count < self.iterations:
            new = step(z)
            count += 1
            if count % self.every == 0 or count == self.iterations:
                residual = float(relative_residual(direct, new).amax())
                if not residual > self.tolerance:
                    return new, Solution(residual, count, True)
            z = advance.next(z, new) if advance else new
        return new, Solution(residual, count, False)


def relative_residual(direct: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """Return by how much a direct step changes each sample, over 1 + its largest value, (n,)."""
    change = (direct(z) - z).abs_().flatten(1).amax(1)
    return change / (1 + z.flatten(1).amax(1).clamp_min(0))


def iteration(
    operator: Operator, injected: Tensor, *, averaged: bool = False
) -> Callable[[Tensor], Tensor]:
    """Return one step of the iteration, state to state; autograd passes through it.

    Averaged: (1 - a) z + a relu(A z + injected) with the largest a that is admissible, 1 / (1 -
    min_i min(A_ii, 0)). Direct: the solution of z_i = relu(A_ii z_i + the rest) in each row.
    """
    if averaged:
        a = 1 / (1 - operator.diagonal.clamp_max(0).min())
        return lambda z: torch.lerp(z, operator.plus(z, injected).relu(), a)
    rest = operator.with_diagonal(0.0)
    own = 1 / (1 - operator.diagonal)

    def step(z: Tensor) -> Tensor:
        moved = rest.plus(z, injected)
        if torch.is_grad_enabled():
            return (moved * own).relu()
        return moved.mul_(own).relu_()

    return step


class _Anderson:
    """Anderson extrapolation, each sample on its own: Walker and Ni, SIAM J. Numer. Anal. 2011."""

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.states: list[Tensor] = []
        self.steps: list[Tensor] = []

    def next(self, z: Tensor, new: Tensor) -> Tensor:
        """Return the extrapolated state after a plain step from z to new."""
        self.states = [*self.states, new.flatten(1)][-self.memory - 1 :]
        self.steps = [*self.steps, (new - z).flatten(1)][-self.memory - 1 :]
        if len(self.steps) < 2:
            return new
        steps = torch.stack(self.steps, 2)
        change = steps.diff(dim=2)
        gram = change.mT @ change
        size = gram.diagonal(dim1=1, dim2=2).sum(1)[:, None, None] + 1e-30
        ridge = 1e-6 * size * torch.eye(gram.shape[1]).to(gram)
        weights = torch.linalg.solve(gram + ridge, change.mT @ steps[:, :, -1:])
        states = torch.stack(self.states, 2)
        best: Tensor = states[:, :, -1:] - states.diff(dim=2) @ weights
        return best.squeeze(2).view_as(new)


def equilibrium(
    operator: Operator, injected: Tensor, solver: Solver, start: Tensor | None = None
) -> tuple[Tensor, Solution]:
    """Return the fixed point z = relu(A z + injected), with its gradient, and how it was reached.

    The gradient is that of the implicit function theorem: a linear fixed point is solved on the way
    back, and no iteration is recorded. Second derivatives in the inputs are exact too; those in the
    entries of A are refused with BadInput.
    """
    z, solution = solver.solve(operator, injected, start)
    if not torch.is_grad_enabled():
        return z, solution
    out = iteration(operator, injected)(z)
    if out.requires_grad:
        active = out.detach() > 0
        weighted = operator(z[:2]).requires_grad
        out.register_hook(lambda g: _pulled_back(operator, active, g, solver, weighted))
    return out, solution


def _pulled_back(
    operator: Operator, active: Tensor, g: Tensor, solver: Solver, weighted: bool
) -> Tensor:
    """Return w with w = g + M^T w, differentiable in g; M is the Jacobian of a direct step."""
    if torch.is_grad_enabled() and weighted:
        raise BadInput(
            "second derivatives in the weights of an equilibrium layer",
            expected="first derivatives, or a network whose weights are frozen",
            fix="ask for them within isthmus.models.unrolled(model)",
        )

    rest = operator.with_diagonal(0.0)
    slopes = active / (1 - operator.diagonal)

    def back(v: Tensor) -> Tensor:
        return rest.adjoint(slopes * v)

    w = _linear(back, g, solver)
    if not (torch.is_grad_enabled() and g.requires_grad):
        return w
    again: Tensor = g + back(w)
    again.register_hook(lambda h: _linear(lambda s: slopes * rest(s), h, solver))
    return again


@torch.no_grad()
def _linear(move: Callable[[Tensor], Tensor], target: Tensor, solver: Solver) -> Tensor:
    """Return w with w = target + move(w)."""
    with full_precision(target.device):
        return _iterated(move, target, solver)


def _iterated(move: Callable[[Tensor], Tensor], target: Tensor, solver: Solver) -> Tensor:
    w = target
    for count in range(1, solver.iterations + 1):
        new = target + move(w)
        if count % solver.every == 0:
            change = float((new - w).abs().amax())
            if not change > solver.tolerance * float(new.abs().amax()):
                return new
        w = new
    return w
