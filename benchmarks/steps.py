"""A curve step against a plain SGD step of the same network (target 1.05x), and fp32 against bf16
(target 2x).

Both are `fit` itself: a few steps a call, taken in turns, by the clock that `fit` keeps. bf16 has
rows where the hardware multiplies it; elsewhere it is emulated, ten times slower than fp32, and
`auto` never takes it.

Floor. A step of a network with D parameters and F multiply-adds a sample does 6 F B floating-point
operations at batch B. A curve with one bend adds, in bytes of fp32: two ends and a bend read and
theta written (4 x 4 D), and on the way back gradients and theta read and the bend's gradient
written (3 x 4 D), 28 D bytes in all. For VGG16 (15 M parameters, 0.31 G multiply-adds) that is 0.43
GB beside 240 GFLOP at batch 128; for PreActResNet-26 (0.37 M, 0.055 G) 10 MB beside 42 GFLOP. At 10
GB/s and 0.4 TFLOP/s the floors of the ratio are 1.07 and 1.01; in bf16, twice as fast, 1.14 and
1.02.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.timing import in_turns, ratio
from isthmus import Bezier, Data, expected_over_t, fit
from isthmus.models import preact_resnet, vgg16
from isthmus.runs import fast_precision, pick_device
from isthmus.training import cross_entropy
from isthmus.types import Loss

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "PreActResNet-26": lambda: preact_resnet(26),
    "VGG16": vgg16,
}
BATCH, STEPS = 128, 3


def _images() -> Data:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (BATCH * 2, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return Data(x, torch.randint(0, 10, (len(x),), generator=generator), 10)


def _naive_seconds(net: nn.Module, data: Data) -> float:
    """Seconds of as many plain steps in fp32 and torch's own memory layout: what most training
    loops do.
    """
    x, optimizer = data.floats()[:BATCH], torch.optim.SGD(net.parameters(), lr=1e-6, momentum=0.9)
    net.train()
    began = time.perf_counter()
    for _ in range(STEPS):
        optimizer.zero_grad()
        cross_entropy(net, x, data.y[:BATCH]).backward()
        optimizer.step()
    return time.perf_counter() - began


def _seconds(module: nn.Module, data: Data, loss: Loss, **options: Any) -> float:
    return fit(module, data, loss, **options).seconds


def measure(rounds: int) -> list[dict[str, Any]]:
    """Return a row per network and precision: seconds of a plain and a curve step, their ratio,
    bf16 against fp32.
    """
    data, rows, place = _images(), [], pick_device()
    precisions = ("fp32", "bf16") if fast_precision(place) == "bf16" else ("fp32",)
    for name, build in NETWORKS.items():
        net, curve = build(), Bezier(build(), build())
        loss = expected_over_t(cross_entropy, weight_decay=1e-4)
        candidates: dict[str, Callable[[], float]] = {
            "naive": partial(_naive_seconds, build(), data)
        }
        for precision in precisions:
            options: dict[str, Any] = {
                "steps": STEPS,
                "lr": 1e-6,
                "batch_size": BATCH,
                "precision": precision,
            }
            candidates[f"plain {precision}"] = partial(
                _seconds, net, data, cross_entropy, weight_decay=1e-4, **options
            )
            candidates[f"curve {precision}"] = partial(_seconds, curve, data, loss, **options)
        took = in_turns(candidates, rounds)
        for precision in precisions:
            plain, on_curve = took[f"plain {precision}"], took[f"curve {precision}"]
            rows.append(
                {
                    "network": name,
                    "precision": precision,
                    "plain step (s)": min(plain) / STEPS,
                    "curve step (s)": min(on_curve) / STEPS,
                    "curve / plain": ratio(on_curve, plain),
                    "naive fp32 / plain": ratio(took["naive"], plain),
                }
            )
    return rows
