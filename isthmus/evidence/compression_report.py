"""A network before and after compression: accuracy, size and cost side by side, as record and page.

The network after compression is read back from its file, so that what is measured is what is
delivered.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from isthmus.compression import Compressed, multiply_adds
from isthmus.data.dataset import Data
from isthmus.evidence.page import environment
from isthmus.metrics.accuracy import Agreement
from isthmus.metrics.question import measure
from isthmus.metrics.values import Rate, as_record
from isthmus.models.checkpoint.writing import save_checkpoint
from isthmus.models.forward import as_input, device_of, eval_mode, forward_pass
from isthmus.runs.files import write_json, write_text
from isthmus.runs.wording import percent
from isthmus.types import Metric


@dataclass(frozen=True)
class Side:
    """A network before or after: its metrics by name, its file, and what a pass costs.

    `multiply_adds` are those of one image, `nonzero` those with a weight that is not 0, and
    `milliseconds` the median time of a pass of one image on this machine, in PyTorch, which skips
    no zeros.
    """

    metrics: dict[str, float]
    bytes: int
    multiply_adds: int
    nonzero: int
    milliseconds: float

    def record(self) -> dict[str, Any]:
        """Return the side as plain JSON."""
        return {
            "metrics": {name: as_record(value) for name, value in self.metrics.items()},
            "bytes": self.bytes,
            "multiply-adds": self.multiply_adds,
            "multiply-adds with a nonzero weight": self.nonzero,
            "milliseconds": self.milliseconds,
        }


@dataclass(frozen=True)
class Compression:
    """What compression did to a network; `same` is the share of samples with the same answer."""

    network: str
    compressed: dict[str, Any]
    before: Side
    after: Side
    same: Rate
    provenance: dict[str, Any]

    def record(self) -> dict[str, Any]:
        """Return everything as plain JSON."""
        return {
            "kind": "compression",
            "network": self.network,
            "compressed": self.compressed,
            "before": self.before.record(),
            "after": self.after.record(),
            "same answers": as_record(self.same),
            "provenance": self.provenance,
        }

    @property
    def verdict(self) -> str:
        """How much smaller the file is and what accuracy is left, in a sentence."""
        factor = self.before.bytes / self.after.bytes
        before, after = (next(iter(side.metrics.values())) for side in (self.before, self.after))
        return (
            f"The file is {factor:.1f} times smaller; clean accuracy goes from {percent(before)} "
            f"to {percent(after)}."
        )

    def rows(self) -> list[tuple[str, str, str]]:
        """Return name, before and after of everything that is measured, as a person reads it."""
        one, other = self.before, self.after
        shown = [
            (name, _shown(one.metrics[name]), _shown(other.metrics[name])) for name in one.metrics
        ]
        pairs = {
            "bytes on disk": (one.bytes, other.bytes),
            "multiply-adds": (one.multiply_adds, other.multiply_adds),
            "of these with a nonzero weight": (one.nonzero, other.nonzero),
        }
        shown += [(name, f"{a:,}", f"{b:,}") for name, (a, b) in pairs.items()]
        times = (f"{one.milliseconds:.3g} ms", f"{other.milliseconds:.3g} ms")
        return [*shown, ("time of one image", *times)]

    def layers(self) -> list[tuple[str, int, int, str]]:
        """Return name, units, how many of them are kept, and their share, by layer."""
        layers = self.compressed["layers"].items()
        return [
            (name, layer["units"], layer["kept"], percent(layer["kept"] / layer["units"]))
            for name, layer in layers
        ]

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write report.json and report.html into the folder; return their paths."""
        data = write_json(folder / "report.json", self.record())
        return data, write_text(folder / "report.html", self.html())

    def html(self) -> str:
        """Return the page, which needs nothing else."""
        return environment().get_template("compression.html").render(report=self)


def _shown(value: float) -> str:
    if isinstance(value, Rate):
        return f"{percent(value)} ({value.hits} of {value.n})"
    return f"{value:.4g}"


def compression(
    model: nn.Module,
    compressed: Compressed,
    built: nn.Module,
    data: Data,
    metrics: Mapping[str, Metric],
    folder: Path,
    *,
    network: str,
    provenance: dict[str, Any],
) -> Compression:
    """Write the packed file into the folder, read it back, and measure before and after.

    `built` is the network as its factory builds it; `metrics` begin with clean accuracy. Raises
    BadInput where the file does not give the same network back, or a metric cannot be measured.
    """
    file = compressed.save(folder / "compressed.safetensors")
    after = Compressed.load(file, built).model
    whole = save_checkpoint(model, folder / "before.safetensors")
    size = whole.stat().st_size
    whole.unlink()
    return Compression(
        network,
        compressed.record,
        _side(model, data, metrics, size),
        _side(after, data, metrics, file.stat().st_size),
        Agreement(model, data)(after),
        provenance,
    )


def _side(model: nn.Module, data: Data, metrics: Mapping[str, Metric], size: int) -> Side:
    total, nonzero = multiply_adds(model, data.x[:1])
    return Side(measure(model, metrics), size, total, nonzero, _milliseconds(model, data))


@torch.no_grad()
def _milliseconds(model: nn.Module, data: Data, repeats: int = 15) -> float:
    """Return the median time of a pass of one image."""
    x = as_input(data.x[:1], device_of(model), channels_last=False)
    times = []
    with eval_mode(model):
        for _ in range(repeats):
            began = time.perf_counter()
            forward_pass(model, x)
            times.append(1000 * (time.perf_counter() - began))
    return median(times)
