"""MM-C of an implicit network over MNIST-sized images at one eps, against its natural forward pass
and against a loop over the samples.

Floor. One sample costs 784 x 100 multiply-adds in front of the fixed point, and 100 x 100 in every
iteration. A box has a center and a radius, so each of these costs twice as much; the iteration of
the box takes more steps, since all entries of its radius have one sign."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.timing import in_turns, ratio
from isthmus import Linf
from isthmus.certification import MixedMonotone
from isthmus.models import Solver, equilibria, implicit_mlp
from isthmus.models.forward import outputs

IMAGES, LOOPED = 10_000, 50
BALL = Linf(0.01)


def _network(method: str) -> nn.Module:
    torch.manual_seed(0)
    net = implicit_mlp().eval()
    for layer in equilibria(net).values():
        layer.solver = Solver(method=method)  # type: ignore[arg-type]
    return net


def _took(work: Callable[[], Any]) -> Callable[[], float]:
    def timed() -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    return timed


def _loop(net: nn.Module, x: Tensor, y: Tensor) -> None:
    for i in range(LOOPED):
        MixedMonotone()(net, x[i : i + 1], y[i : i + 1], BALL)


def measure(rounds: int) -> list[dict[str, Any]]:
    """Return a row per iteration and precision: seconds for all images, and the ratios."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(IMAGES, 1, 28, 28, generator=generator)
    y = torch.randint(0, 10, (IMAGES,), generator=generator)
    rows = []
    for method in ("direct", "averaged"):
        net = _network(method)
        candidates = {
            "natural": _took(lambda net=net: outputs(net, x)),
            "double": _took(lambda net=net: MixedMonotone()(net, x, y, BALL)),
            "single": _took(lambda net=net: MixedMonotone(precision="single")(net, x, y, BALL)),
            "loop": _took(lambda net=net: _loop(net, x, y)),
        }
        took = in_turns(candidates, rounds)
        looped = [seconds * IMAGES / LOOPED for seconds in took["loop"]]
        for precision in ("double", "single"):
            rows.append(
                {
                    "iteration": method,
                    "precision": precision,
                    "natural (s)": min(took["natural"]),
                    "MM-C (s)": min(took[precision]),
                    "MM-C / natural": ratio(took[precision], took["natural"]),
                    "loop / MM-C": ratio(looped, took[precision]),
                }
            )
    return rows
