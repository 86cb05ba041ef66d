"""The network under attack, and what all attacks share: who is attacked, in which batches, which
point is kept.

A network is attacked as it is used: in eval mode, no buffer moves, and only the gradient in its
inputs is computed. Its answer on a sample must not depend on the other samples of a batch, since
samples leave it. Samples that the network already gets wrong are returned as they are, so no attack
is weaker than none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isthmus.attacks.inputs.objectives import Objective
from isthmus.data.balls import L2, Ball, Linf
from isthmus.models.batchnorm import batchnorm_layers
from isthmus.models.forward import device_of, frozen, pass_size, precise_logits
from isthmus.runs.devices import Precision, autocast
from isthmus.types import BadInput


@contextmanager
def under_attack(model: nn.Module, *, batch_statistics: bool = False) -> Iterator[None]:
    """Run a block with the network in eval mode and its parameters frozen; put modes and flags back
    afterwards.

    With `batch_statistics`, BatchNorm layers that were in train mode normalize by the batch, and
    still no buffer moves."""
    layers = [layer for layer in batchnorm_layers(model) if layer.training and batch_statistics]
    with frozen(model):
        try:
            for layer in layers:
                layer.training, layer.track_running_stats = True, False
            yield
        finally:
            for layer in layers:
                layer.track_running_stats = True


@dataclass(frozen=True)
class Victim:
    """A network's logits and input gradients, in float32 or better. `precision` None is that of the
    surroundings.
    """

    model: nn.Module
    precision: Precision | None = None

    def run(self, x: Tensor) -> Tensor:
        """Return the logits at x, (n, classes), with their graph. Raises BadInput where they are no
        such thing.
        """
        context: AbstractContextManager[None] = nullcontext()
        if self.precision is not None:
            context = autocast(x.device, self.precision)
        with context:
            return precise_logits(self.model, x)

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """Return the logits at x, (n, classes)."""
        return self.run(x)

    def gradient(self, x: Tensor, y: Tensor, objective: Objective) -> tuple[Tensor, Tensor, Tensor]:
        """Return the objective's values (n,), its gradient in x, and the logits.

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


class Seen:
    """The worst point seen of each of n samples, and its score; a fooled sample beats one that is
    not.
    """

    def __init__(
        self, x: Tensor, y: Tensor, logits: Tensor, score: Objective, *, stops: bool
    ) -> None:
        self.points, self.y, self.score, self.stops = x.clone(), y, score, stops
        self.values, self.fooled = score(logits, y), self._wrong(logits, y)

    def _wrong(self, logits: Tensor, y: Tensor) -> Tensor:
        labels = y if y.ndim == 1 else y.argmax(1)
        return (
            logits.argmax(1) != labels if self.stops else torch.zeros_like(labels, dtype=torch.bool)
        )

    def standing(self) -> Tensor:
        """Return the indices of the samples still to be attacked; all of them where fooling is not
        the aim.
        """
        return (~self.fooled).nonzero().squeeze(1)

    def note(self, rows: Tensor, points: Tensor, logits: Tensor) -> Tensor:
        """Keep what is worse than what was seen; return which of the rows are fooled at these
        points, (rows,) bool.
        """
        y = self.y[rows]
        values, wrong = self.score(logits, y), self._wrong(logits, y)
        before = self.fooled[rows]
        worse = (wrong & ~before) | ((wrong == before) & (values > self.values[rows]))
        better = rows[worse]
        self.points[better], self.values[better] = points[worse], values[worse]
        self.fooled[rows] = before | wrong
        return wrong


Search = Callable[[Victim, Tensor, Tensor, Tensor, Seen, torch.Generator | None], None]
"""`(victim, x, y, clean logits, seen, generator)`: looks for bad points and notes them in `seen`.
"""


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


def generator_of(seed: int | None) -> torch.Generator | None:
    """Return a generator with the seed; None, the global one, without a seed."""
    return None if seed is None else torch.Generator().manual_seed(seed)


def attacked(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    search: Search,
    *,
    score: Objective,
    stops: bool = True,
    seed: int | None = 0,
    precision: Precision | None = None,
    batch_size: int | None = None,
    batch_statistics: bool = False,
) -> Tensor:
    """Return the worst points that the search finds, the inputs themselves among them, on x's
    device.

    In batches sized to memory. With `stops` (the default) the aim is to fool: who is fooled leaves
    the batch at once."""
    check_inputs(x, y)
    if not len(x):
        return x.clone()
    device, generator, done = device_of(model), generator_of(seed), []
    size = batch_size or (len(x) if batch_statistics else pass_size(x, device, gradients=True))
    with under_attack(model, batch_statistics=batch_statistics):
        victim = Victim(model, precision)
        for part, labels in zip(
            x.detach().to(device).split(size), y.to(device).split(size), strict=True
        ):
            logits = victim.logits(part)
            seen = Seen(part, labels, logits, score, stops=stops)
            if len(seen.standing()):
                search(victim, part, labels, logits, seen, generator)
            done.append(seen.points)
    return torch.cat(done).to(x.device)
