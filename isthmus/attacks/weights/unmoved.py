"""What a network computes before the weights that are being changed, computed once.

An attack on the last layers calls the network thousands of times on the same images under other
weights. Whatever does not depend on these weights comes out the same, so each outermost submodule
whose output does not carry a gradient to them is run once and then answers from memory. Which those
are is seen in one forward pass; nothing is known about the architecture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import cycle
from typing import Any

import torch
from torch import Tensor, nn

from isthmus.models.view import View
from isthmus.types import Params

Answers = dict[nn.Module, list[Tensor]]
"""What each submodule returned, call by call."""


def unmoved(network: nn.Module, weights: Params, x: Tensor) -> Answers:
    """Return the outputs on x of the outermost submodules that do not depend on the weights.

    The network is in eval mode, no parameter of it requires gradients, and `weights` do. Counted
    are submodules that return one tensor, at every call free of the weights and never changed in
    place afterwards; where the network detaches an output, no dependence through it is seen."""
    seen: dict[nn.Module, list[tuple[Any, int]]] = {}

    def note(module: nn.Module, _: Any, out: Any) -> None:
        seen.setdefault(module, []).append((out, out._version if isinstance(out, Tensor) else 0))

    with ExitStack() as hooks, torch.enable_grad():
        for part in network.modules():
            hooks.callback(part.register_forward_hook(note).remove)
        View(network, weights, {})(x)
    found = {
        part: [out for out, _ in calls]
        for part, calls in seen.items()
        if all(_kept(*call) for call in calls)
    }
    inside = {child for part in found for child in part.modules() if child is not part}
    return {part: outs for part, outs in found.items() if part not in inside}


def _kept(out: Any, version: int) -> bool:
    """Whether an output is one tensor that depends on nothing that moves and is as it was returned."""
    return isinstance(out, Tensor) and not out.requires_grad and out._version == version


@contextmanager
def answering(answers: Answers) -> Iterator[None]:
    """Run a block in which these submodules answer from memory, call by call."""
    own = {part: part.__dict__.get("forward") for part in answers}
    for part, outs in answers.items():
        part.forward = partial(_next, cycle(outs))
    try:
        yield
    finally:
        for part, forward in own.items():
            del part.forward
            if forward is not None:
                part.forward = forward


def _next(outs: Iterator[Tensor], *_: Any, **__: Any) -> Tensor:
    return next(outs)
