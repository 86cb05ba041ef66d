"""A path of 21 points against 21 plain evaluations (target 1.1x plus recalibration).

Floor: 21 passes over the evaluation data, and one pass over the bonafide data at each of the 19
inner points. Accuracy and loss share their pass.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from benchmarks.timing import in_turns, ratio
from isthmus import Accuracy, Bezier, Data, MeanLoss, evaluate_path, recalibrate
from isthmus.metrics import measure as ask
from isthmus.models import preact_resnet

POINTS, BONAFIDE, EVALUATED = 21, 250, 500


def _random(n: int) -> Data:
    generator = torch.Generator().manual_seed(n)
    x = torch.randint(0, 256, (n, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return Data(x, torch.randint(0, 10, (n,), generator=generator), 10)


def measure(rounds: int) -> list[dict[str, Any]]:
    """Return the seconds of the path, of as many plain evaluations, and of the recalibrations, with
    the ratio.
    """
    net, curve = preact_resnet(20), Bezier(preact_resnet(20), preact_resnet(20))
    bonafide, evaluated = _random(BONAFIDE), _random(EVALUATED)
    metrics = {"accuracy": Accuracy(evaluated), "loss": MeanLoss(evaluated)}

    def path() -> float:
        began = time.perf_counter()
        evaluate_path(curve, metrics, POINTS, recalibrate_on=bonafide)
        return time.perf_counter() - began

    def plain() -> float:
        began = time.perf_counter()
        for _ in range(POINTS):
            ask(net, metrics)
        return time.perf_counter() - began

    def recalibrations() -> float:
        began = time.perf_counter()
        for _ in range(POINTS - 2):
            recalibrate(net, bonafide)
        return time.perf_counter() - began

    took = in_turns({"path": path, "plain": plain, "recalibration": recalibrations}, rounds)
    both = [a + b for a, b in zip(took["plain"], took["recalibration"], strict=True)]
    return [
        {
            "network": "PreActResNet-20",
            "path (s)": min(took["path"]),
            "21 evaluations (s)": min(took["plain"]),
            "19 recalibrations (s)": min(took["recalibration"]),
            "path / (evaluations + recalibrations)": ratio(took["path"], both),
        }
    ]
