"""How time and memory grow with parameters, samples, points and classes.

Each is measured at four sizes, and a power of the size is fitted to what it takes. The work grows
with the first power; what is paid once lowers the exponent. Beyond 1 something grows faster than
the work. Memory is the peak of a process of its own above one that only imports, as in `memory`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import log
from pathlib import Path
from statistics import linear_regression
from typing import Any

import torch
from torch import nn

from benchmarks.memory import Watch, in_own_process
from isthmus import Accuracy, Bezier, Data, evaluate_path, expected_over_t, fit
from isthmus.training import cross_entropy

SIDE, BATCH = 16, 128
Call = Callable[[], object]


def _network(width: int = 64, classes: int = 10) -> nn.Module:
    inputs = 3 * SIDE**2
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, classes)
    )


def _images(n: int = 4 * BATCH, classes: int = 10) -> Data:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (n, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    return Data(x, torch.randint(0, classes, (n,), generator=generator), classes)


def _steps(width: int = 64, classes: int = 10) -> Call:
    """Five curve steps."""
    curve = Bezier(_network(width, classes), _network(width, classes))
    options: dict[str, Any] = {"steps": 5, "lr": 1e-6, "batch_size": BATCH, "precision": "fp32"}
    return partial(
        fit, curve, _images(classes=classes), expected_over_t(cross_entropy, 1e-4), **options
    )


def _path(samples: int = 4000, points: int = 9, classes: int = 10) -> Call:
    """Accuracy along a path."""
    curve = Bezier(_network(classes=classes), _network(classes=classes))
    question = {"accuracy": Accuracy(_images(samples, classes))}
    return partial(evaluate_path, curve, question, points, recalibrate_on=_images(classes=classes))


@dataclass(frozen=True)
class Growth:
    """What is done, at which sizes of what, and how many units of it a size is."""

    what: str
    against: str
    sizes: tuple[int, ...]
    prepare: Callable[[int], Call]
    unit: int = 1


GROWTHS = (
    Growth("curve steps", "parameters", (400, 1600, 6400, 25600), _steps, 3 * SIDE**2 + 11),
    Growth("curve steps", "classes", (10, 100, 1000, 10000), lambda n: _steps(classes=n)),
    Growth("path", "samples", (4000, 16000, 64000, 256000), lambda n: _path(samples=n)),
    Growth("path", "points", (3, 9, 27, 81), lambda n: _path(points=n)),
    Growth("path", "classes", (10, 100, 1000, 10000), lambda n: _path(classes=n)),
)


def peak(index: int, size: int) -> float:
    """Return the peak memory in MB of doing it once in this process; with size 0, of importing."""
    watch = Watch()
    if size:
        GROWTHS[index].prepare(size)()
    return watch.peak()


def _seconds(call: Call, rounds: int) -> float:
    """Return the time of the fastest of some calls after a first one."""
    took = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return min(took[1:])


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Return the power of the size that fits costs best, by least squares of the logarithms.

    >>> round(exponent([1, 2, 4], [3, 12, 48]), 6)
    2.0
    """
    return linear_regression([log(size) for size in sizes], [log(cost) for cost in costs]).slope


@dataclass(frozen=True)
class Costs:
    """What a growth costs at each of its sizes."""

    growth: Growth
    sizes: list[int]
    seconds: list[float]
    megabytes: list[float]

    def row(self) -> dict[str, Any]:
        """Return the row of the table."""
        return {
            "what": self.growth.what,
            "against": self.growth.against,
            "sizes": f"{self.sizes[0]:,} to {self.sizes[-1]:,}",
            "seconds": f"{self.seconds[0]:.3g} to {self.seconds[-1]:.3g}",
            "exponent of time": exponent(self.sizes, self.seconds),
            "MB": f"{self.megabytes[0]:.0f} to {self.megabytes[-1]:.0f}",
            "exponent of memory": exponent(self.sizes, self.megabytes),
        }


def _costs(index: int, rounds: int, bare: float) -> Costs:
    growth = GROWTHS[index]
    return Costs(
        growth,
        [size * growth.unit for size in growth.sizes],
        [_seconds(growth.prepare(size), rounds) for size in growth.sizes],
        [max(in_own_process(__name__, index, size) - bare, 1.0) for size in growth.sizes],
    )


def measure(rounds: int, picture: Path | None = None) -> list[dict[str, Any]]:
    """Return a row for each growth; draw all of them where a file for the picture is given."""
    bare = in_own_process(__name__, 0, 0)
    found = [_costs(index, rounds, bare) for index in range(len(GROWTHS))]
    if picture is not None:
        draw(found, picture)
    return [costs.row() for costs in found]


def draw(found: Sequence[Costs], file: Path) -> None:
    """Draw time and memory against size, with a line of the first power beside each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots(1, 2)
    for costs in found:
        name = f"{costs.growth.what}, {costs.growth.against}"
        for place, values in zip(axes, (costs.seconds, costs.megabytes), strict=True):
            line = place.loglog(costs.sizes, values, marker="o", label=name)[0]
            first_power = [values[-1] * size / costs.sizes[-1] for size in costs.sizes]
            place.loglog(costs.sizes, first_power, ":", color=line.get_color(), linewidth=0.8)
    axes[0].set(xlabel="size", ylabel="seconds")
    axes[1].set(xlabel="size", ylabel="MB")
    axes[0].legend(fontsize="small", title="dotted: the first power")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)
