"""What a detector promises, and the three rows of its evaluation at every eps: record, figure and
page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from torch import nn

from isthmus.attacks.inputs.gradient import PGD
from isthmus.data.balls import Ball
from isthmus.data.dataset import Data
from isthmus.detection import Evaluation, ManifoldDetector, evaluate
from isthmus.evidence.evading import detector_aware
from isthmus.evidence.figures import COLORS, to_svg
from isthmus.runs.files import write_json, write_text
from isthmus.runs.wording import percent


@dataclass(frozen=True)
class Detection:
    """A detector's settings and threshold, and its evaluations, where there are any."""

    network: str
    detector: dict[str, Any]
    evaluations: tuple[Evaluation, ...]
    provenance: dict[str, Any]

    def record(self) -> dict[str, Any]:
        """Return everything as plain JSON."""
        return {
            "kind": "detection",
            "network": self.network,
            "detector": self.detector,
            "evaluations": [evaluation.record() for evaluation in self.evaluations],
            "provenance": self.provenance,
        }

    @property
    def verdict(self) -> str:
        """What the detector promises, or what it leaves an attacker who knows it, in a sentence."""
        if not self.evaluations:
            threshold = self.detector["threshold"]
            low, high = percent(threshold["low"]), percent(threshold["high"])
            return (
                f"It flags {percent(threshold['false_positive_rate'])} of clean inputs, between "
                f"{low} and {high}; what it detects is not known yet."
            )
        worst = max(self.evaluations, key=lambda evaluation: evaluation.worst.undetected)
        share = percent(worst.worst.undetected)
        return f"At eps {worst.eps:g}, {share} of attacked inputs fool network and detector."

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write report.json and report.html into the folder; return their paths."""
        data = write_json(folder / "report.json", self.record())
        return data, write_text(folder / "report.html", self.html())

    def html(self) -> str:
        """Return the page, which needs nothing else."""
        environment = Environment(
            loader=PackageLoader("isthmus.evidence", "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters.update(percent=percent)
        picture = Markup(to_svg(figure(self), "detection")) if self.evaluations else None
        template = environment.get_template("detection.html")
        return template.render(report=self, picture=picture)


def evaluations(
    detector: ManifoldDetector,
    model: nn.Module,
    data: Data,
    balls: Sequence[Ball],
    *,
    steps: int,
    aware_steps: int,
    weights: Sequence[float],
) -> tuple[Evaluation, ...]:
    """Return the three rows in every ball, with PGD as the attack. Raises BadInput as `evaluate`
    and the attacks do.
    """
    return tuple(
        evaluate(
            detector,
            model,
            data,
            ball,
            PGD(ball, steps=steps, returns="worst"),
            detector_aware(detector, ball, aware_steps),
            weights,
        )
        for ball in balls
    )


def figure(report: Detection, *, width: float = 7.4) -> Figure:
    """Return the areas against eps, and the share that fools network and detector."""
    drawn = Figure(figsize=(width, 3.2), layout="constrained")
    left, right = drawn.subplots(1, 2)
    eps = [evaluation.eps for evaluation in report.evaluations]
    kinds = {
        "attack": (COLORS["attack"], "o", [e.attack for e in report.evaluations]),
        "noise": (COLORS["clean"], "s", [e.noise for e in report.evaluations]),
        "knows the detector": (COLORS["third"], "^", [e.worst for e in report.evaluations]),
    }
    for name, (color, marker, rows) in kinds.items():
        left.plot(eps, [row.area for row in rows], marker=marker, color=color, label=name)
        shares = [100 * row.undetected for row in rows]
        right.plot(eps, shares, marker=marker, color=color, label=name)
    left.set(xlabel="eps", ylabel="AUROC", ylim=(0, 1.02))
    right.set(xlabel="eps", ylabel="fools both, %", ylim=(0, 101))
    left.legend(frameon=False)
    return drawn
