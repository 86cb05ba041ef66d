"""What training costs and how it is done: `Training`, and the `History` of a run.

Budgets are counted in gradient evaluations, so that all defenses can be given the same. One
evaluation is one forward and one backward pass over a batch: one step of plain training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from math import inf
from typing import Any

import torch
from torch import Tensor

from isthmus.runs.devices import Precision
from isthmus.runs.identity import identity_of
from isthmus.training.options import require_numbers, require_seed, sorted_options
from isthmus.training.schedules import Schedule, garipov
from isthmus.types import BadInput

_APART = (
    (
        "compile",
        "recompute",
        "torch.compile decides itself what is computed again (microbatch goes with both)",
    ),
    ("compile", "shard", "weights are gathered outside of compiled code"),
    (
        "microbatch",
        "shard",
        "parts of a batch would gather all weights in the middle of a gradient",
    ),
)
"""Pairs of options of which one excludes the other, and why."""


LARGEST_LR = 3.4e38
"""What float32 holds: torch computes a step with a rate as a number of that type."""


@dataclass(frozen=True)
class Training:
    """How `fit` trains: the budget, the optimizer, and what each step sees.

    `steps` and `lr` have no default. `batch_size` is the number of samples per step and process.
    `momentum`, `nesterov` and `weight_decay` are those of SGD; `optimizer(params, lr=lr)` replaces
    it. `schedule` maps the spent share of the budget to a factor on `lr`. `clip` is the largest
    norm of all gradients together, beyond which they are scaled down to it. `augment` changes a
    batch of images. `precision` is that of the forward pass: "auto" is the one in which the
    network takes a step sooner, timed before the first step. `compile` runs the network through
    `torch.compile`, which takes a minute or so before the first step, and falls back with a notice.
    `microbatch` is the largest number of samples whose activations are kept at once: a larger batch
    is passed in parts, each computed again for the gradients, a third more work, to the gradients
    of the whole; only BatchNorm takes its statistics from each part. `recompute` computes parts of
    the network again instead, and changes nothing at all. `shard` shares weights, gradients and the
    optimizer's state out over the processes of a launch (FSDP2); on a curve all of them then train
    the same t. Where such a training breaks off, the module is left without weights.
    `device` None takes the GPU where there is one; it is no part of a run's identity.

    Raises BadInput where steps, lr, batch_size, clip or microbatch are not positive, momentum or
    weight_decay are negative or not finite, or options exclude each other.

    >>> Training(steps=200, lr=0.5).replace(lr=0.1).lr
    0.1
    """

    steps: int
    lr: float
    batch_size: int = 128
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    clip: float | None = None
    schedule: Schedule = garipov
    augment: Callable[[Tensor], Tensor] | None = None
    optimizer: Callable[..., torch.optim.Optimizer] | None = None
    seed: int = 0
    precision: Precision = "auto"
    compile: bool = False
    microbatch: int | None = None
    recompute: bool = False
    shard: bool = False
    device: str | torch.device | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        require_numbers(self, "steps", "lr", "batch_size", "momentum", "weight_decay")
        require_seed(self.seed)
        if self.steps < 1 or self.batch_size < 1 or not 0 < self.lr < LARGEST_LR:
            raise BadInput(
                f"steps = {self.steps}, batch_size = {self.batch_size}, lr = {self.lr}",
                expected="all above zero, and lr a number that float32 holds",
                fix="pass steps=200, batch_size=128, lr=0.1",
            )
        if not 0 <= self.weight_decay < inf:
            raise BadInput(
                f"weight_decay = {self.weight_decay:g}",
                expected="zero or more",
                fix="pass weight_decay=1e-4",
            )
        if not 0 <= self.momentum < inf or (self.nesterov and not self.momentum):
            raise BadInput(
                f"momentum = {self.momentum:g}, nesterov = {self.nesterov}",
                expected="zero or more, and above zero for Nesterov's",
                fix="pass momentum=0.9",
            )
        if self.clip is not None and not 0 < self.clip < inf:
            raise BadInput(
                f"clip = {self.clip:g}",
                expected="a norm above zero, or None",
                fix="pass clip=None",
            )

        if self.microbatch is not None and self.microbatch < 1:
            raise BadInput(
                f"microbatch = {self.microbatch}",
                expected="one sample or more, or None",
                fix="pass microbatch=32",
            )
        for first, second, reason in _APART:
            if getattr(self, first) and getattr(self, second):
                raise BadInput(
                    f"{first} and {second}",
                    expected=f"one of them: {reason}",
                    fix="leave one of them out",
                )

    @property
    def run_identity(self) -> str:
        """Return the fields that differ from the defaults, as text equal in every process.

        >>> Training(steps=200, lr=0.5, schedule=garipov, device="cpu").run_identity
        'Training(steps=200, lr=0.5)'
        """
        values = [(option, getattr(self, option.name)) for option in fields(self) if option.repr]
        named = [(o.name, identity_of(v)) for o, v in values if v != o.default]
        return f"Training({', '.join(f'{name}={text}' for name, text in named)})"

    def replace(self, **options: Any) -> Training:
        """Return a copy with these fields changed. Raises BadInput for a name that is no field."""
        sorted_options(options, Training)
        return dataclasses.replace(self, **options)

    def steps_costing(self, cost: int) -> int:
        """Return how many steps of `cost` gradient evaluations each the budget `steps` pays for.

        Raises BadInput where it pays for none.

        >>> Training(steps=800, lr=0.1).steps_costing(2)
        400
        """
        steps = self.steps // cost
        if steps < 1:
            raise BadInput(
                f"a budget of {self.steps} gradient evaluations",
                expected=f"{cost} or more: what one step of this defense costs",
                fix=f"pass steps={cost} or more",
            )
        return steps


def training_from(training: Training | None, options: Mapping[str, Any]) -> Training:
    """Return the training with the options in place of its own; without one, that of the options.

    Raises BadInput where an option is unknown, or steps or lr are missing.
    """
    if training is not None:
        return training.replace(**options)
    sorted_options(options, Training)
    missing = [name for name in ("steps", "lr") if name not in options]
    if missing:
        raise BadInput(
            f"no {' and no '.join(missing)}",
            expected="a budget and a learning rate",
            fix="pass steps=200, lr=0.1",
        )
    return Training(**options)


@dataclass
class History:
    """What a training run was and how it went: options, mean loss of each tenth of the budget,
    seconds.
    """

    steps: int
    lr: float
    batch_size: int
    seed: int
    precision: str
    data_sha256: str
    world: int = 1
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
