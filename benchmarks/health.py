"""The health of PGD-10 with five restarts against the attack alone (target 2): the accuracy under
the attack, without and with its health, on the same samples.

Samples that are fooled leave the attack and not the probes, so the ratio depends on how many stand:
a network trained against PGD on the digits, and an untrained PreActResNet-20 on images that it
labels itself, where most stand and where few do.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.timing import in_turns, ratio
from isthmus import Data, Linf, fit, load_data
from isthmus.attacks import PGD, health
from isthmus.metrics import RobustAccuracy
from isthmus.models import preact_resnet, small_cnn
from isthmus.training import adversarial

SAMPLES = 256


def _digits() -> tuple[nn.Module, Data]:
    torch.manual_seed(0)
    net = small_cnn(10, channels=1, width=8)
    loss = adversarial(PGD(Linf(0.1), steps=3))
    fit(net, load_data("digits:train"), loss, steps=200, lr=0.05, precision="fp32")
    return net.eval(), load_data("digits:test")[:SAMPLES]


def _images() -> tuple[nn.Module, Data]:
    torch.manual_seed(0)
    net = preact_resnet(20).eval()
    x = torch.rand(SAMPLES, 3, 32, 32)
    with torch.no_grad():
        return net, Data(x, net(x).argmax(1), 10)


def _alone(net: nn.Module, data: Data, attack: PGD) -> float:
    began = time.perf_counter()
    attack_only = partial(attack)  # a function cannot be watched
    RobustAccuracy(data, attack_only)(net)
    return time.perf_counter() - began


def _examined(net: nn.Module, data: Data, attack: PGD) -> float:
    began = time.perf_counter()
    health(net, data, attack)
    return time.perf_counter() - began


def measure(rounds: int) -> list[dict[str, Any]]:
    """Return a row per network and radius: seconds, and the ratio."""
    cases = {
        "small_cnn on digits, against PGD": (*_digits(), 0.1),
        "PreActResNet-20, small radius": (*_images(), 0.25 / 255),
        "PreActResNet-20, large radius": (*_images(), 8 / 255),
    }
    rows = []
    for name, (net, data, eps) in cases.items():
        attack = PGD(Linf(eps), steps=10, restarts=5)
        work = {
            "alone": partial(_alone, net, data, attack),
            "health": partial(_examined, net, data, attack),
        }
        took = in_turns(work, max(2, rounds))
        rows.append(
            {
                "network": name,
                "stands": float(RobustAccuracy(data, attack)(net)),
                "attack (s)": min(took["alone"]),
                "with health (s)": min(took["health"]),
                "ratio": ratio(took["health"], took["alone"]),
            }
        )
    return rows
