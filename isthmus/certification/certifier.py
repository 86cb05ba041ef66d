"""The contract of a certifier, and what all of them check before they answer."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from isthmus.data.balls import Ball, Linf
from isthmus.models.forward import device_of, eval_mode, precise_logits
from isthmus.types import BadInput


class Certifier(Protocol):
    """A lower bound of the margin over a ball: `(model, x, y, ball) -> (n,)`; above 0 is certified.

    x (n, c, h, w) float in [0, 1]; y (n,) int64. The margin is the true logit minus the largest
    other one, over all inputs of [0, 1] in the ball around x; -inf where there is no bound. The
    answer is on the CPU.
    """

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ball: Ball, /) -> Tensor:
        """Return the margins, (n,)."""


class Differentiable(Protocol):
    """A certifier whose bounds can be trained: `bounds` are those of each logit difference."""

    def bounds(self, model: nn.Module, x: Tensor, y: Tensor, ball: Ball) -> Tensor:
        """Return lower bounds of logit y minus each logit, (n, classes), with their gradient."""


def check_samples(x: Tensor, y: Tensor) -> None:
    """Raise BadInput where x is not floating point in [0, 1], or y does not hold one label each."""
    if not x.is_floating_point() or not len(x):
        raise BadInput(
            f"{len(x)} inputs of type {x.dtype}",
            expected="one or more, floating point",
            fix="pass Data.floats()",
        )
    low, high = (float(end) for end in x.aminmax())
    if not (low >= 0 and high <= 1):
        raise BadInput(
            f"inputs from {low:.4g} to {high:.4g}",
            expected="values in [0, 1]",
            fix="put normalization into the network as its first layer",
        )
    if y.shape != x.shape[:1] or y.is_floating_point() or y.dtype == torch.bool:
        raise BadInput(
            f"labels of shape {tuple(y.shape)} and type {y.dtype}",
            expected=f"({len(x)},), whole numbers",
            fix="pass one label a sample, as Data.y",
        )


def check_network(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Raise BadInput where the weights are not finite, a label is no class of the network, or two
    passes differ.
    """
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.dtype in (torch.bfloat16, torch.float16):
            raise BadInput(
                f"a network whose {name} is {tensor.dtype}",
                expected="weights of float32 or float64",
                fix="certify model.float(): in fewer bits it is another network",
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise BadInput(
                f"a network whose {name} is NaN or infinite",
                expected="finite weights",
                fix="train it again, or check the checkpoint",
            )
    few = x[:2].to(device_of(model))
    state = _random_states()
    with eval_mode(model), torch.no_grad():
        logits = precise_logits(model, few)
        again = precise_logits(model, few)
    drew = any(not torch.equal(a, b) for a, b in zip(state, _random_states(), strict=True))
    if drew or not torch.allclose(logits, again, rtol=1e-4, atol=1e-5, equal_nan=True):
        raise BadInput(
            "a network that draws at random, even in eval mode",
            expected="the same logits for the same inputs",
            fix="certify it with Smoothing, which counts its answers",
        )
    check_labels(y, logits.shape[1])


def check_labels(y: Tensor, classes: int) -> None:
    """Raise BadInput where a label is none of the classes, or there is one class only."""
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= classes or classes < 2:
        raise BadInput(
            f"labels from {low} to {high} for a network with {classes} outputs",
            expected="two classes or more, each label one of them",
            fix="pass the labels of the network's own classes",
        )


def _random_states() -> list[Tensor]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return [torch.get_rng_state(), *cuda]


def radius_of(ball: Ball) -> float:
    """Return the radius of an l-inf ball. Raises BadInput for other balls."""
    if not isinstance(ball, Linf):
        raise BadInput(
            f"{ball}",
            expected="an Linf ball",
            fix="pass Linf(eps), whose box holds the ball; or certify l2 with Smoothing",
        )
    return ball.eps
