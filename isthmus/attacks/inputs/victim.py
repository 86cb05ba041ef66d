"""The network under attack, and what an attack accepts.

A network is attacked as it is used: in eval mode, no buffer moves, and only the gradient in its
inputs is computed. Its answer on a sample must not depend on the other samples of a batch, since
samples leave it. Attacks reach the network through `Victim` alone: a network with random answers
has one place where they are averaged over draws.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isthmus.attacks.inputs.objectives import Objective
from isthmus.data.balls import L2, Ball, Linf
from isthmus.models.batchnorm import batchnorm_layers
from isthmus.models.forward import frozen, precise_logits
from isthmus.models.noise import draws_needed, mean_of_draws, watching_draws
from isthmus.runs.devices import Precision, autocast
from isthmus.types import BadInput


@contextmanager
def under_attack(model: nn.Module, *, batch_statistics: bool = False) -> Iterator[None]:
    """Run a block with the network in eval mode and its parameters frozen; put modes and flags back
    afterward.

    With `batch_statistics`, BatchNorm layers that were in train mode normalize by the batch, and
    still no buffer moves.
    """
    layers = [layer for layer in batchnorm_layers(model) if layer.training and batch_statistics]
    with frozen(model):
        try:
            for layer in layers:
                layer.training = True
                layer.track_running_stats = False
            yield
        finally:
            for layer in layers:
                layer.track_running_stats = True


@dataclass(frozen=True)
class Victim:
    """A network's logits and input gradients, in float32 or better.

    `precision` None is that of the surroundings, fp32 outside autocast. Of a random network an
    answer is the mean over `draws` passes: gradients are averaged over them, and no sample is
    fooled by one unlucky pass. No attack calls the model in another way.
    """

    model: nn.Module
    precision: Precision | None = None
    draws: int = 1

    def run(self, x: Tensor) -> Tensor:
        """Return the logits at x, (n, classes), with their graph: their mean over the draws.

        Raises BadInput where the model returns anything else.
        """
        context: AbstractContextManager[None] = nullcontext()
        if self.precision is not None:
            context = autocast(x.device, self.precision)
        with context:
            return mean_of_draws(lambda: precise_logits(self.model, x), self.draws)

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """Return the logits at x, (n, classes)."""
        return self.run(x)

    def gradient(self, x: Tensor, y: Tensor, objective: Objective) -> tuple[Tensor, Tensor, Tensor]:
        """Return the objective's values (n,), its gradient in x (of x's shape), and the logits.

        Raises BadInput where the outputs do not depend on x in a way that has a gradient.
        """
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            logits = self.run(x)
            values = objective(logits, y)
            if not values.requires_grad:
                raise BadInput(
                    "a network whose outputs have no gradient in its inputs",
                    expected="a differentiable network",
                    fix="attack it with Square, which needs none",
                )
            # The gradient in x alone: nothing is computed for weights, not even those that carry a
            # graph of their own.
            (gradient,) = torch.autograd.grad(values.sum(), x)
        return values.detach(), gradient, logits.detach()


def meet(model: nn.Module, x: Tensor, precision: Precision | None) -> tuple[Victim, Tensor]:
    """Return the network as an attack meets it, and its logits at x, (n, classes).

    Whether its answers are random is seen here, by whether the pass draws random numbers.
    """
    once = Victim(model, precision)
    with watching_draws(x.device) as drawing:
        logits = once.logits(x)
    draws = draws_needed(model, drew=drawing.drew)
    if draws == 1:
        return once, logits
    victim = Victim(model, precision, draws)
    return victim, victim.logits(x)


def check_inputs(x: Tensor, y: Tensor) -> None:
    """Raise BadInput where x is not floating point in [0, 1] or y does not fit."""
    if not x.is_floating_point() or len(x) != len(y):
        raise BadInput(
            f"x of type {x.dtype} and {len(x)} samples, y of {len(y)}",
            expected="floating point inputs with one label each",
            fix="pass Data.floats() and Data.y",
        )
    if len(x):
        low, high = (float(v) for v in x.aminmax())
        if not (low >= 0 and high <= 1):
            raise BadInput(
                f"inputs from {low:.4g} to {high:.4g}",
                expected="values in [0, 1]",
                fix="put normalization into the network as its first layer",
            )


def check_ball(ball: Ball, attack: str) -> Linf | L2:
    """Return the ball. Raises BadInput where it is neither l-inf nor l2, the only ones that the
    attack is made for.
    """
    if not isinstance(ball, Linf | L2):
        raise BadInput(
            f"{ball}",
            expected=f"an Linf or L2 ball for {attack}",
            fix="use PGD, which takes any ball",
        )
    return ball


def check_counts(**counts: int) -> None:
    """Raise BadInput where one of an attack's counts (steps, restarts, ...) is below 1."""
    low = {name: count for name, count in counts.items() if not count >= 1}
    if low:
        raise BadInput(
            ", ".join(f"{name} = {count}" for name, count in low.items()),
            expected="1 or more",
            fix=f"pass {next(iter(low))}=1, or leave it out for the default",
        )


def generator_of(seed: int | None) -> torch.Generator | None:
    """Return a generator with the seed; None, the global one, without a seed."""
    return None if seed is None else torch.Generator().manual_seed(seed)
