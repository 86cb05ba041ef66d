"""What a network computes before the weights that are being changed, computed once.

An attack on the last layers calls the network thousands of times on the same images under other
weights. Whatever does not depend on these weights comes out the same, so each outermost submodule
whose output does not carry a gradient to them runs once and is then replayed. One forward pass
shows which those are; nothing is known about the architecture.

A replayed submodule has its `forward` replaced: hooks cannot skip the computation, and another
module in its place would break networks that read its attributes or index into it.
"""

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

Cached = dict[nn.Module, list[Tensor]]
"""What each submodule returned, call by call."""


def cache_prefix(network: nn.Module, weights: Params, x: Tensor) -> Cached:
    """Return the outputs on x of the outermost submodules that do not depend on the weights.

    The network is in eval mode, no parameter of it requires gradients, and `weights` do. A
    submodule counts if it returns one tensor, at every call free of the weights and never changed
    in place afterward. Where the network detaches an output, no dependence through it is seen.
    """
    calls: dict[nn.Module, list[tuple[Any, int]]] = {}

    def note(module: nn.Module, _: Any, out: Any) -> None:
        version = out._version if isinstance(out, Tensor) else 0
        calls.setdefault(module, []).append((out, version))

    with ExitStack() as hooks, torch.enable_grad():
        for part in network.modules():
            hooks.callback(part.register_forward_hook(note).remove)
        View(network, weights, {})(x)
    free = {
        part: [out for out, _ in outputs]
        for part, outputs in calls.items()
        if all(_is_constant(*call) for call in outputs)
    }
    inside = {child for part in free for child in part.modules() if child is not part}
    return {part: outputs for part, outputs in free.items() if part not in inside}


def _is_constant(out: Any, version: int) -> bool:
    """Return whether an output is one tensor, free of the weights and as it was returned."""
    return isinstance(out, Tensor) and not out.requires_grad and out._version == version


@contextmanager
def replay_cached(cached: Cached) -> Iterator[None]:
    """Run a block in which these submodules return what is cached, call by call."""
    own = {part: part.__dict__.get("forward") for part in cached}
    for part, outputs in cached.items():
        part.forward = partial(_next, cycle(outputs))
    try:
        yield
    finally:
        for part, forward in own.items():
            del part.forward
            if forward is not None:
                part.forward = forward


def _next(outputs: Iterator[Tensor], *_: Any, **__: Any) -> Tensor:
    return next(outputs)
