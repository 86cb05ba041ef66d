"""lambda_max of 1,000 images against power iteration on each sample, to the same accuracy (target:
10 times as fast).

Floor. The exact way is one forward pass and C - 1 backward passes to the input; for 10 classes and
a backward pass of the cost of a forward pass that is 10 forward passes. Power iteration takes a
double backward pass an iteration, about three times a forward pass, and needs log(accuracy) /
log(ratio of the two largest eigenvalues) of them.

The rival is written as it should be: all samples of a batch at once, a vector for each, the graph
recorded once, and a batch is done when its last sample is, so small batches are the faster ones:
five took 0.6 of the time of one by one or of twenty, and 0.3 of that of a hundred. One by one, as a
loop over images would do it, is timed on a few.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.timing import in_turns, ratio
from isthmus import Data, fit
from isthmus.metrics import input_hessian_top
from isthmus.models import frozen, preact_resnet
from isthmus.training import one_cycle

ACCURACY, BATCH, LIMIT = 1e-3, 5, 300


def _data(n: int) -> Data:
    """Blurred noise whose class is a pattern added to it: a network that has learned it is neither
    blind nor certain.
    """
    generator = torch.Generator().manual_seed(0)
    patterns = F.interpolate(torch.rand(10, 3, 4, 4, generator=generator), size=32, mode="bilinear")
    y = torch.randint(0, 10, (n,), generator=generator)
    x = (
        0.6 * F.interpolate(torch.rand(n, 3, 16, 16, generator=generator), size=32, mode="bilinear")
        + 0.3 * patterns[y]
    )
    return Data((x.clamp(0, 1) * 255).to(torch.uint8), y, 10)


def power_iteration(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return each sample's top eigenvalue, (n,), by power iteration to the relative residual
    ACCURACY.
    """
    tops = []
    with frozen(net):
        for part, labels in zip(x.split(BATCH), y.split(BATCH), strict=True):
            part = part.requires_grad_()
            loss = F.cross_entropy(net(part), labels, reduction="sum")
            (g,) = torch.autograd.grad(loss, part, create_graph=True)
            v = F.normalize(
                torch.randn(part.shape, generator=torch.Generator().manual_seed(0)).flatten(1),
                dim=1,
            )
            for _ in range(LIMIT):
                (w,) = torch.autograd.grad(g, part, v.view_as(part), retain_graph=True)
                w = w.flatten(1)
                top = (w * v).sum(1)
                if bool(((w - top[:, None] * v).norm(dim=1) <= ACCURACY * top.abs()).all()):
                    break
                v = F.normalize(w, dim=1)
            tops.append(top)
    return torch.cat(tops)


def _seconds(compute: Callable[[], Any]) -> float:
    began = time.perf_counter()
    compute()
    return time.perf_counter() - began


def measure(rounds: int, images: int = 1000) -> list[dict[str, Any]]:
    """Return the seconds of both ways, their ratio, and by how much their answers differ."""
    data, net = _data(images), preact_resnet(8)
    fit(net, data, steps=60, lr=0.1, batch_size=100, schedule=one_cycle, precision="fp32")
    x, y, few = data.floats(), data.y, max(1, images // 50)
    exact, iterated = input_hessian_top(net, x, y), power_iteration(net, x, y).double()
    took = in_turns(
        {
            "exact": lambda: _seconds(lambda: input_hessian_top(net, x, y)),
            "power": lambda: _seconds(lambda: power_iteration(net, x, y)),
            "alone": lambda: sum(
                _seconds(lambda i=i: power_iteration(net, x[i : i + 1], y[i : i + 1]))
                for i in range(few)
            ),
        },
        rounds,
        warmup=0,  # both have just run once
    )
    alone = [seconds * images / few for seconds in took["alone"]]
    return [
        {
            "network": f"PreActResNet-8, {images:,} images",
            "exact (s)": min(took["exact"]),
            "power iteration (s)": min(took["power"]),
            "one by one (s)": min(alone),
            "power / exact": ratio(took["power"], took["exact"]),
            "one by one / exact": ratio(alone, took["exact"]),
            "largest difference": float(((iterated - exact).abs() / exact).max()),
        }
    ]
