"""I-BAU: unlearn the perturbation that fools the network on all samples at once, with the implicit
hypergradient.

Source: Zeng et al., Adversarial Unlearning of Backdoors via Implicit Hypergradient, ICLR 2022,
sections 3 and 4 and Algorithm 1: min over weights, max over delta in an l2 ball, of the mean loss
on x + delta. The gradient in the weights includes how the maximizer moves with them, by fixed-point
iterations on one step of the inner ascent.

Where we depart from the paper's code: the radius is given per pixel value, so that it fits images
of any size (the published 10 for 3x32x32 is 0.18); the labels are the bonafide ones; delta is
projected at every step (the code has no ball), and so does the map whose fixed point it is taken
for, since a maximizer on the sphere moves along the sphere; the series of the hypergradient is
broken off where it diverges; delta is put on half of each batch (the code: on one image in a
hundred; the paper: on all); the inner and the outer loss see the same batch; Adam starts anew and
BatchNorm is recalibrated in every round, and a round is as long as the budget allows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from isthmus.data.dataset import Data, Source, as_data
from isthmus.defenses.spending import Trained
from isthmus.models.batchnorm import recalibrate
from isthmus.models.forward import eval_mode
from isthmus.models.view import copied
from isthmus.training.budget import Training
from isthmus.training.loop import fit
from isthmus.training.losses import cross_entropy
from isthmus.training.schedules import constant

ROUNDS = 5


INNER_LR = 10.0
"""Learning rate of the perturbation."""

INNER_DECAY = 2e-3
"""Its weight decay: the ascent is on the loss minus 0.001 ||delta||^2."""

MAP_RATE = 0.1
"""The step of the map whose fixed point delta is taken for."""


@dataclass(frozen=True)
class IBAU(Trained):
    """Implicit backdoor adversarial unlearning. `training.lr` is Adam's (0.001 in the paper), at
    a constant rate.

    `radius` is the root mean square of the perturbation over the values of an image in [0, 1];
    `iterations` are those of the hypergradient. Budget: an inner step costs one gradient
    evaluation, an outer one 2 + `iterations`; as many of either are taken, in up to five rounds.
    """

    radius: float = 0.18
    iterations: int = 5

    def __call__(self, tampered: nn.Module, bonafide: Source) -> nn.Module:
        """Return the unlearned copy. Raises BadInput where the budget is below one inner and one
        outer step.
        """
        net = copied(tampered)
        data = as_data(bonafide)
        pairs = self.training.steps_costing(3 + self.iterations)
        rounds = min(ROUNDS, pairs)
        adam = partial(torch.optim.Adam, weight_decay=self.training.weight_decay)
        whole = self.training.replace(steps=pairs // rounds, schedule=constant)
        for number in range(rounds):
            part = whole.replace(seed=self.training.seed + number)
            delta = self.universal_perturbation(net, data, part)
            unlearning = _ImplicitLoss(delta, self._length(data), self.iterations)
            outer = part.replace(optimizer=adam)
            fit(net, data, unlearning, training=outer, progress="unlearning")
            recalibrate(net, data)
        return net.eval()

    def universal_perturbation(self, net: nn.Module, bonafide: Data, training: Training) -> Tensor:
        """Return one perturbation, (1, c, h, w) within the ball, that raises the loss on all
        samples.
        """
        shifted = _Shifted(net, bonafide.x.shape[1:])
        ascent = training.replace(
            lr=INNER_LR, momentum=0.0, nesterov=False, weight_decay=INNER_DECAY, optimizer=None
        )
        fit(
            shifted,
            bonafide,
            _negative_loss,
            training=ascent,
            after_step=partial(_project, radius=self._length(bonafide)),
            progress="searching for a perturbation",
        )
        return shifted.delta.detach()

    def _length(self, bonafide: Data) -> float:
        return float(self.radius * bonafide.x[0].numel() ** 0.5)


class _Shifted(nn.Module):
    """A fixed network behind a perturbation of its inputs, the only parameter."""

    def __init__(self, net: nn.Module, shape: Sequence[int]) -> None:
        super().__init__()
        self.net = copied(net).requires_grad_(False)
        self.delta = nn.Parameter(torch.zeros(1, *shape))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x + self.delta)
        return out


def _negative_loss(shifted: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with eval_mode(shifted):
        return -cross_entropy(shifted, x, y)


@torch.no_grad()
def _project(shifted: nn.Module, radius: float) -> None:
    assert isinstance(shifted, _Shifted)
    shifted.delta.copy_(into_ball(shifted.delta, radius))


def into_ball(delta: Tensor, radius: float) -> Tensor:
    """Return delta, or where it is longer than the ball's radius, scaled back to it."""
    factor: Tensor = (radius / delta.norm().clamp_min(1e-12)).clamp_max(1)
    return delta * factor


@dataclass(frozen=True, eq=False)
class _ImplicitLoss:
    """The loss with delta on half of each batch; its gradient is the implicit hypergradient."""

    delta: Tensor
    radius: float
    iterations: int

    def __call__(self, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        half = (
            torch.arange(len(x), device=x.device).view(-1, *[1] * (x.ndim - 1)) < (len(x) + 1) // 2
        )

        def outer(delta: Tensor) -> Tensor:
            return cross_entropy(net, x + half * delta, y)

        def inner(delta: Tensor) -> Tensor:
            return INNER_DECAY / 2 * delta.square().sum() - cross_entropy(net, x + delta, y)

        weights = [p for p in net.parameters() if p.requires_grad and p.numel()]
        delta = self.delta.to(x)
        with (
            eval_mode(net),
            sdpa_kernel(SDPBackend.MATH),
        ):  # the fast kernels of attention have no second derivative
            value, gradient = hypergradient(
                *(inner, outer, delta, weights),
                rate=MAP_RATE,
                iterations=self.iterations,
                projection=partial(into_ball, radius=self.radius),
            )
        return _with_gradient(value, weights, gradient)


def hypergradient(
    inner: Callable[[Tensor], Tensor],
    outer: Callable[[Tensor], Tensor],
    delta: Tensor,
    weights: Sequence[Tensor],
    *,
    rate: float,
    iterations: int,
    projection: Callable[[Tensor], Tensor] = lambda delta: delta,
) -> tuple[Tensor, list[Tensor]]:
    """Return outer(delta) and the gradient in the weights of outer(delta*(weights)), delta* the
    minimizer of inner.

    `delta` is taken for the fixed point of projection(delta - rate inner'(delta)). The inverse in
    the implicit function theorem is a sum of as many terms of its Neumann series as there are
    iterations, broken off where they cease to shrink: then delta is no attracting fixed point, and
    the series has no sum. 0 leaves the direct gradient alone. Source: Zeng et al., section 4.2;
    Grazzi et al., ICML 2020, section 2 (fixed-point method).
    """
    delta = delta.detach().requires_grad_()
    value = outer(delta)
    of_delta, *direct = _gradients(value, [delta, *weights])
    if not iterations:
        return value.detach(), direct
    (slope,) = torch.autograd.grad(inner(delta), delta, create_graph=True)
    step = projection(delta - rate * slope)
    term = sought = of_delta
    for _ in range(iterations - 1):
        following = torch.autograd.grad(step, delta, term, retain_graph=True)[0]
        if following.norm() >= term.norm():
            break
        term, sought = following, sought + following
    return value.detach(), [
        a + b for a, b in zip(direct, _gradients(step, weights, sought), strict=True)
    ]


def _gradients(value: Tensor, of: Sequence[Tensor], along: Tensor | None = None) -> list[Tensor]:
    """Gradients, zero for what the value does not depend on."""
    grads = torch.autograd.grad(value, of, along, allow_unused=True)
    pairs = zip(of, grads, strict=True)
    return [torch.zeros_like(p) if grad is None else grad for p, grad in pairs]


def _with_gradient(value: Tensor, weights: Sequence[Tensor], gradient: Sequence[Tensor]) -> Tensor:
    """Return a loss with the given value and gradient."""
    return value + sum(((p - p.detach()) * g).sum() for p, g in zip(weights, gradient, strict=True))
