"""The health of PGD-10 with five restarts against the attack alone (target 2): the accuracy under
the attack, without and with its health, on the same samples.

Samples that are fooled leave the attack and not the probes, so the ratio depends on how many stand:
networks trained on the digits, against PGD and plainly, and an untrained PreActResNet-8 on images
that it labels itself, of which few stand. Beside the time, the images that the
network is given, which no load of the machine changes: on networks so small that a pass over 32
images takes as long as one over 150, time says more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.timing import in_turns, ratio
from isthmus import Data, Linf, fit, load_data
from isthmus.attacks import PGD, health
from isthmus.metrics import RobustAccuracy
from isthmus.models import preact_resnet, small_cnn
from isthmus.training import adversarial, cross_entropy

SAMPLES = 256


def _digits(*, robust: bool) -> tuple[nn.Module, Data]:
    torch.manual_seed(0)
    net = small_cnn(10, channels=1, width=8)
    loss = adversarial(PGD(Linf(0.1), steps=3)) if robust else cross_entropy
    fit(net, load_data("digits:train"), loss, steps=200, lr=0.05, precision="fp32")
    return net.eval(), load_data("digits:test")[:SAMPLES]


class Noisy(nn.Module):
    """A network that answers at random: noise is added to its input."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (n, classes)."""
        return self.net(x + 0.02 * torch.randn_like(x))


def _images() -> tuple[nn.Module, Data]:
    torch.manual_seed(0)
    net = preact_resnet(8).eval()
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


def _images_given(net: nn.Module, work: Callable[[], float]) -> int:
    """Return how many images the network is given while the work is done."""
    counts: list[int] = []
    handle = net.register_forward_pre_hook(lambda _, inputs: counts.append(len(inputs[0])))
    work()
    handle.remove()
    return sum(counts)


def measure(rounds: int) -> list[dict[str, Any]]:
    """Return a row per network and radius: seconds, and the ratios of times and of images."""
    robust, digits = _digits(robust=True)
    plain, _ = _digits(robust=False)
    resnet, images = _images()
    cases = {
        "small_cnn on digits, against PGD": (robust, digits, 0.1),
        "small_cnn on digits, plain": (plain, digits, 0.1),
        "small_cnn on digits, noise at its input": (Noisy(robust), digits[:64], 0.1),
        "PreActResNet-8, color images": (resnet, images, 8 / 255),
    }
    rows = []
    for name, (net, data, eps) in cases.items():
        attack = PGD(Linf(eps), steps=10, restarts=5)
        work = {
            "alone": partial(_alone, net, data, attack),
            "health": partial(_examined, net, data, attack),
        }
        given = {kind: _images_given(net, job) for kind, job in work.items()}
        took = in_turns(work, max(2, rounds), warmup=0)
        rows.append(
            {
                "network": name,
                "samples": len(data),
                "stands": float(RobustAccuracy(data, attack)(net)),
                "attack (s)": min(took["alone"]),
                "with health (s)": min(took["health"]),
                "ratio": ratio(took["health"], took["alone"]),
                "ratio of images": given["health"] / given["alone"],
            }
        )
    return rows
