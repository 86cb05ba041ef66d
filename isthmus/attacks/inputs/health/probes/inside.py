"""Does the network compute gradients inside its forward pass?

Source: Croce et al., ICML 2022, on defenses that adapt at test time; AutoAttack's check of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from isthmus.attacks.inputs.health.indicator import Run
from isthmus.models.forward import as_input, device_of, eval_mode, precise_logits


def gradients_inside(run: Run) -> float | None:
    """Return how many gradients a forward pass over two samples computes."""
    if not len(run.clean):
        return None
    x = as_input(run.clean.x[:2], device_of(run.model), channels_last=False)
    with eval_mode(run.model), _counted() as calls:
        precise_logits(run.model, x)
    return float(len(calls))


@contextmanager
def _counted() -> Iterator[list[str]]:
    """Run a block and yield the names of the calls that computed gradients in it."""
    calls: list[str] = []
    originals = {name: getattr(torch.autograd, name) for name in ("grad", "backward")}

    def counting(name: str) -> Any:
        def call(*inputs: Any, **named: Any) -> Any:
            calls.append(name)
            return originals[name](*inputs, **named)

        return call

    try:
        for name in originals:
            setattr(torch.autograd, name, counting(name))
        yield calls
    finally:
        for name, original in originals.items():
            setattr(torch.autograd, name, original)
