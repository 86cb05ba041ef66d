"""Implicit networks: layers whose output is a fixed point z = relu(A z + B x + b), well-posed
whatever the values of their parameters.

Source: Jafarpour, Davydov, Proskurnikov, Bullo, NeurIPS 2021 (NEMON); Jafarpour et al., L4DC 2022.
With free T and l, w = exp(l) and gamma < 1,

    A = gamma I + diag(w)^-1 T diag(w) - diag(|T| 1),   eta = 1 / w,   so that mu(A) <= gamma.

Where we depart: a convolution subtracts the exact row sum of the absolute values of its kernel, at
the border of a zero-padded image that of the taps inside, so the bound holds there too.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import isfinite
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isthmus.models.bounds.bound import Bound
from isthmus.models.fixed_point import (
    Convolution,
    Dense,
    Solution,
    Solver,
    Weights,
    equilibrium,
    full_precision,
    iteration,
)
from isthmus.types import BadInput

_ROUGH = 1e-3  # the tolerance of training, in the papers' code 1e-2 to 1e-3


class Equilibrium(nn.Module):
    """A layer z = relu(A z + inject(x)), solved to the solver's tolerance; in train mode to 1e-3.

    `solution` says how the last pass got there: residual, iterations, whether it converged. A bound
    of x gives a bound of z. Raises BadInput where gamma is not below 1.
    """

    inject: nn.Module

    def __init__(self, gamma: float, solver: Solver | None) -> None:
        super().__init__()
        if not (isfinite(gamma) and gamma < 1):
            raise BadInput(
                f"gamma = {gamma}",
                expected="a finite number below 1, the bound of mu(A)",
                fix="pass gamma=0.0: with 1 or more there need be no fixed point",
            )
        self.gamma = gamma
        self.solver = solver or Solver()
        self.rough = replace(self.solver, tolerance=max(_ROUGH, self.solver.tolerance))
        self.solution: Solution | None = None
        self.unrolled = 0
        self.reuses = False
        self.last: Tensor | None = None

    @abstractmethod
    def operator(self, height: int = 1, width: int = 1) -> Weights:
        """Return A and eta, for states of this height and width where they are images."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the fixed point at x, of the shape of inject(x)."""
        with full_precision(x.device):
            injected: Any = self.inject(x if x.dtype == torch.float64 else x.float())
            operator = self.operator(*injected.shape[2:])
            if isinstance(injected, Bound):
                bound = injected.fixed_point(operator, self.rough, self.solver)
                return cast(Tensor, bound)  # it stands in for one
            if self.unrolled:
                return self._unrolled(operator, injected)
            solver = self.rough if self.training else self.solver
            z, self.solution = equilibrium(operator, injected, solver, self._start(injected))
        self.last = z.detach() if self.reuses else None
        return z

    def _unrolled(self, operator: Weights, injected: Tensor) -> Tensor:
        step = iteration(operator, injected, averaged=self.solver.method == "averaged")
        z = torch.zeros_like(injected)
        for _ in range(self.unrolled):
            z = step(z)
        return z

    def _start(self, injected: Tensor) -> Tensor | None:
        fits = self.last is not None and self.last.shape == injected.shape
        return self.last if self.reuses and fits else None


class EquilibriumLinear(Equilibrium):
    """A dense equilibrium layer, (n, inputs) to (n, hidden).

    >>> layer = EquilibriumLinear(3, 5)
    >>> tuple(layer(torch.rand(2, 3)).shape), layer.operator().measure() < 1e-6
    ((2, 5), True)
    """

    def __init__(
        self, inputs: int, hidden: int, gamma: float = 0.0, solver: Solver | None = None
    ) -> None:
        super().__init__(gamma, solver)
        _check_sizes(inputs=inputs, hidden=hidden)
        self.inject = nn.Linear(inputs, hidden)
        bound = hidden**-0.5
        self.mixing = nn.Parameter(torch.empty(hidden, hidden).uniform_(-bound, bound))
        self.log_weights = nn.Parameter(torch.zeros(hidden))

    def operator(self, height: int = 1, width: int = 1) -> Dense:
        """Return A (hidden, hidden) and eta (hidden,)."""
        ratio = torch.exp(self.log_weights[None] - self.log_weights[:, None])
        own = self.gamma - self.mixing.abs().sum(1)
        matrix = self.mixing * ratio + torch.diag_embed(own)
        return Dense(matrix, torch.exp(-self.log_weights.detach()))


class EquilibriumConv2d(Equilibrium):
    """A convolutional equilibrium layer, (n, inputs, h, w) to (n, channels, h, w).

    A has kernels of odd `size`; `padding` "circular" wraps around, "zeros" does not. The input is
    injected by a zero-padded convolution of the same size.
    """

    away: Tensor

    def __init__(
        self,
        inputs: int,
        channels: int,
        size: int = 3,
        padding: Literal["circular", "zeros"] = "circular",
        gamma: float = 0.0,
        solver: Solver | None = None,
    ) -> None:
        super().__init__(gamma, solver)
        _check_sizes(inputs=inputs, channels=channels, size=size)
        if size % 2 == 0 or padding not in ("circular", "zeros"):
            raise BadInput(
                f"kernels of size {size}, padding {padding!r}",
                expected="an odd size; circular or zeros",
                fix="pass size=3",
            )
        self.padding = padding
        self.inject = nn.Conv2d(inputs, channels, size, padding=size // 2)
        bound = (channels * size**2) ** -0.5
        kernel = torch.empty(channels, channels, size, size).uniform_(-bound, bound)
        self.mixing = nn.Parameter(kernel)
        self.log_weights = nn.Parameter(torch.zeros(channels))
        away = torch.ones_like(kernel)
        away[range(channels), range(channels), size // 2, size // 2] = 0
        self.register_buffer("away", away, persistent=False)

    def operator(self, height: int = 1, width: int = 1) -> Convolution:
        """Return A and eta for images of height x width."""
        logs = self.log_weights
        kernel = self.mixing * torch.exp(logs[None] - logs[:, None])[:, :, None, None]
        size = self.mixing.abs()
        if self.padding == "circular":
            rows = size.sum((1, 2, 3)).view(-1, 1, 1)
        else:
            ones = torch.ones(1, len(logs), height, width).to(size)
            rows = F.conv2d(ones, size, padding=size.shape[-1] // 2)[0]
        centers = (self.mixing * (1 - self.away)).sum((1, 2, 3)).view(-1, 1, 1)
        eta = torch.exp(-logs.detach()).view(-1, 1, 1).expand(-1, height, width)
        padding: Literal["circular", "constant"] = (
            "circular" if self.padding == "circular" else "constant"
        )
        return Convolution(kernel * self.away, self.gamma + centers - rows, eta, padding)


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise BadInput(f"{name} = {size}", expected="1 or more", fix=f"pass {name}=1 or more")


def implicit_mlp(
    inputs: int = 784, hidden: int = 100, classes: int = 10, gamma: float = 0.0
) -> nn.Sequential:
    """Return an implicit network on flattened images: one dense equilibrium layer and a linear one.

    `inputs` counts the values of an image. Well-posed for any values of its parameters. Raises
    BadInput where a size is below 1 or gamma is not below 1.

    >>> sum(p.numel() for p in implicit_mlp().parameters())
    89610
    """
    _check_sizes(classes=classes)
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            equilibrium=EquilibriumLinear(inputs, hidden, gamma),
            head=nn.Linear(hidden, classes),
        )
    )


def implicit_conv(
    classes: int = 10,
    channels: int = 1,
    size: int = 28,
    width: int = 16,
    hidden: int = 100,
    padding: Literal["circular", "zeros"] = "circular",
    gamma: float = 0.0,
) -> nn.Sequential:
    """Return two strided convolutions, a convolutional and a dense equilibrium layer, and a linear
    one, for images of `size` x `size`.

    Raises BadInput where a size is below 1, the image is below 4x4, or gamma is not below 1.

    >>> tuple(implicit_conv(size=8, width=2, hidden=5)(torch.rand(3, 1, 8, 8)).shape)
    (3, 10)
    """
    _check_sizes(classes=classes, channels=channels, width=width, **{"size / 4": size // 4})
    side = size // 2 // 2
    return nn.Sequential(
        OrderedDict(
            stem=nn.Sequential(nn.Conv2d(channels, width, 4, 2, 1), nn.ReLU()),
            down=nn.Sequential(nn.Conv2d(width, 2 * width, 4, 2, 1), nn.ReLU()),
            images=EquilibriumConv2d(2 * width, 2 * width, 3, padding, gamma),
            flatten=nn.Flatten(),
            equilibrium=EquilibriumLinear(2 * width * side**2, hidden, gamma),
            head=nn.Linear(hidden, classes),
        )
    )


def equilibria(model: nn.Module) -> dict[str, Equilibrium]:
    """Return the equilibrium layers of a network by name; none for an ordinary network."""
    layers = model.named_modules()
    return {name: layer for name, layer in layers if isinstance(layer, Equilibrium)}


@contextmanager
def unrolled(model: nn.Module, iterations: int = 50) -> Iterator[nn.Module]:
    """Run a block in which equilibrium layers take `iterations` steps from 0, all of them recorded
    by autograd.

    The exact gradient at a fixed point can mislead an attack; that of a few steps is another one
    (Yang et al., NeurIPS 2022). Raises BadInput where iterations < 1.
    """
    _check_sizes(iterations=iterations)
    layers = equilibria(model).values()
    before = [layer.unrolled for layer in layers]
    for layer in layers:
        layer.unrolled = iterations
    try:
        yield model
    finally:
        for layer, count in zip(layers, before, strict=True):
            layer.unrolled = count


@contextmanager
def reused(model: nn.Module) -> Iterator[nn.Module]:
    """Run a block in which each pass starts from the fixed points of the last one of its shape.

    The fixed point is unique and solved for to the same tolerance: only the number of iterations
    changes (Gao et al., NeurIPS 2024).
    """
    layers = list(equilibria(model).values())
    for layer in layers:
        layer.reuses = True
    try:
        yield model
    finally:
        for layer in layers:
            layer.reuses = False
            layer.last = None
