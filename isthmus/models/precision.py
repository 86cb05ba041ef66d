"""The precision that `auto` stands for: that in which a network takes a step sooner, timed.

Which one it is depends on the network: a CPU with instructions for bf16 takes half the time for
dense convolutions, and twice the time for depthwise ones (docs/experiments.md).
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Literal

import torch
from torch import Tensor, nn

from isthmus.models.forward import (
    as_input,
    computing_type,
    eval_mode,
    network_under,
    pass_precision,
    precise_logits,
    takes_channels_last,
)
from isthmus.runs.devices import (
    Precision,
    autocast,
    fast_precision,
    kept_draws,
    seconds_of,
    told_precision,
)

Exact = Literal["fp32", "bf16"]

CLEARLY = 0.85
"""The share of the time in fp32 that a step in bf16 may take at most: below it the gain is worth
the rounding, and does not depend on what else the machine does meanwhile."""

REPEATS = 3
"""How often a step of each kind is timed at most; the fastest counts, which a busy machine disturbs
least."""

DOUBTFUL = (0.7, 1.0)
"""Shares of the time in fp32 between which another pair of steps is timed."""

_chosen: dict[tuple[object, ...], Exact] = {}
"""What was decided in this process: for one network, batch and device it is timed once."""


def decided_precision(
    module: nn.Module, x: Tensor, batch_size: int, device: torch.device, precision: Precision
) -> Exact:
    """Return the precision of training, with `auto` decided for this network and batch.

    x (n, c, h, w) are some of the samples; the module is on the device. `auto` is fp32 where the
    hardware has nothing faster, or the network computes in another type than float32; the variable
    ISTHMUS_PRECISION decides where it is set; else a step of each kind is timed, once for all
    networks of this shape. bf16, asked for in either way, is fp32 where the CPU lacks a kernel for
    it. Each process decides by itself. Raises BadInput where the precision is unknown.
    """
    if precision != "auto":
        return pass_precision(module, device, precision)
    if computing_type(module) != torch.float32:
        return "fp32"
    told = told_precision()
    if told is not None:
        return pass_precision(module, device, told)
    if fast_precision(device) == "fp32":
        return "fp32"
    images = x[torch.arange(batch_size) % len(x)]
    key = (_shape_of(module), tuple(images.shape), images.dtype, device)
    if key not in _chosen:
        _chosen[key] = quicker(lambda kind: _step_seconds(module, images, device, kind))
    return _chosen[key]


def quicker(seconds: Callable[[Exact], float], repeats: int = REPEATS) -> Exact:
    """Return bf16 where a step in it takes clearly less time than in fp32, else fp32.

    `seconds(kind)` runs a step in that precision and returns how long it took; the first of each
    kind does not count. A precision in which the step raises is not taken.

    >>> quicker(lambda kind: {"fp32": 1.0, "bf16": 0.5}[kind])
    'bf16'
    >>> quicker(lambda kind: {"fp32": 1.0, "bf16": 2.0}[kind])
    'fp32'
    """
    kinds: tuple[Exact, ...] = ("fp32", "bf16")
    best = dict.fromkeys(kinds, inf)
    try:
        for kind in kinds:
            seconds(kind)
        for _ in range(repeats):
            best = {kind: min(best[kind], seconds(kind)) for kind in kinds}
            share = best["bf16"] / best["fp32"]
            if not DOUBTFUL[0] < share < DOUBTFUL[1]:
                break
    except Exception:  # a user's network may raise anything; the real step reports it
        return "fp32"
    return "bf16" if share <= CLEARLY else "fp32"


def _shape_of(module: nn.Module) -> tuple[object, ...]:
    """Return what a step's time depends on: the layers of a network and the shapes of its
    tensors.
    """
    tensors = [*module.named_parameters(), *module.named_buffers()]
    shapes = tuple((name, tuple(tensor.shape)) for name, tensor in tensors)
    return (str(network_under(module)), shapes)


def _step_seconds(module: nn.Module, images: Tensor, device: torch.device, kind: Exact) -> float:
    """Return how long a forward and a backward pass take; nothing of the module changes."""
    last = takes_channels_last(module, images)
    with kept_draws(device), eval_mode(module), torch.enable_grad():
        x = as_input(images, device, channels_last=last).clone()
        weights: list[Tensor] = [p for p in module.parameters() if p.requires_grad]
        trained = weights or [x.requires_grad_()]

        def step() -> None:
            with autocast(device, kind):
                logits = precise_logits(module, x)
            torch.autograd.grad(logits.logsumexp(1).sum(), trained, allow_unused=True)

        return seconds_of(step, device)
