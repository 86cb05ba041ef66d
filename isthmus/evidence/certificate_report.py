"""Certified accuracy against eps beside what an attack leaves: record, figure and page."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from torch import nn

from isthmus.certification import CertifiedAccuracy, Certifier
from isthmus.data.balls import Ball
from isthmus.data.dataset import Data
from isthmus.evidence.figures import COLORS, to_svg
from isthmus.metrics.accuracy import Accuracy
from isthmus.metrics.robustness import RobustAccuracy
from isthmus.metrics.values import Rate, as_record
from isthmus.models.zoo.implicit import equilibria
from isthmus.runs.files import write_json, write_text
from isthmus.runs.identity import identity_of
from isthmus.runs.wording import percent
from isthmus.types import Attack


@dataclass(frozen=True)
class CertificateRow:
    """What holds at one eps; `seconds` is the certifier's time for one sample."""

    eps: float
    certified: Rate
    attacked: Rate | None
    seconds: float

    @property
    def gap(self) -> float | None:
        """The share of samples of which neither is known: attacked less certified accuracy."""
        return None if self.attacked is None else self.attacked - self.certified

    def record(self) -> dict[str, Any]:
        """Return the row as plain JSON."""
        attacked = None if self.attacked is None else as_record(self.attacked)
        return {
            "eps": self.eps,
            "certified accuracy": as_record(self.certified),
            "attacked accuracy": attacked,
            "gap": self.gap,
            "seconds per sample": self.seconds,
        }


@dataclass(frozen=True)
class Certificates:
    """What a certifier proves of a network at several eps, and what an attack finds.

    `layers` says of each equilibrium layer its gamma and how its last fixed point was reached.
    """

    network: str
    certifier: str
    attack: str
    accuracy: Rate
    rows: tuple[CertificateRow, ...]
    layers: dict[str, dict[str, Any]]
    provenance: dict[str, Any]

    def record(self) -> dict[str, Any]:
        """Return everything as plain JSON."""
        return {
            "kind": "certificates",
            "network": self.network,
            "certifier": self.certifier,
            "attack": self.attack,
            "accuracy": as_record(self.accuracy),
            "rows": [row.record() for row in self.rows],
            "equilibrium layers": self.layers,
            "provenance": self.provenance,
        }

    @property
    def verdict(self) -> str:
        """The largest eps at which half of the samples are certified, in a sentence."""
        half = [row.eps for row in self.rows if row.certified >= 0.5]
        if half:
            return f"At eps {max(half):g}, half of the answers or more are proved right."
        return "At none of these eps is half of the answers proved right."

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
        picture = Markup(to_svg(figure(self), "certificates"))
        template = environment.get_template("certificates.html")
        return template.render(report=self, picture=picture)


def certificates(
    model: nn.Module,
    data: Data,
    certifier: Certifier,
    balls: Sequence[Ball],
    attack: Callable[[Ball], Attack] | None,
    *,
    network: str,
    provenance: dict[str, Any],
) -> Certificates:
    """Return certified accuracy in every ball, and accuracy under the attack where there is one.

    Raises BadInput as certifier and attack do.
    """
    rows = []
    for ball in balls:
        began = time.perf_counter()
        certified = CertifiedAccuracy(data, certifier, ball)(model)
        seconds = (time.perf_counter() - began) / len(data)
        attacked = RobustAccuracy(data, attack(ball))(model) if attack else None
        rows.append(CertificateRow(ball.eps, certified, attacked, seconds))
    accuracy = Accuracy(data)(model)
    layers = {
        name: {"gamma": layer.gamma, **asdict(layer.solution)}
        for name, layer in equilibria(model).items()
        if layer.solution is not None
    }
    told = "" if attack is None else identity_of(attack(balls[-1]))
    return Certificates(
        network, identity_of(certifier), told, accuracy, tuple(rows), layers, provenance
    )


def figure(report: Certificates, *, width: float = 7.4) -> Figure:
    """Return certified and attacked accuracy against eps; what lies between is not known."""
    drawn = Figure(figsize=(width, 3.2), layout="constrained")
    axes = drawn.add_subplot()
    eps = [row.eps for row in report.rows]
    certified = [100 * row.certified for row in report.rows]
    axes.plot(eps, certified, marker="o", color=COLORS["clean"], label="certified")
    attacked = [100 * row.attacked for row in report.rows if row.attacked is not None]
    if len(attacked) == len(eps):
        axes.plot(eps, attacked, marker="s", ls="--", color=COLORS["attack"], label="under attack")
        axes.fill_between(eps, certified, attacked, color=COLORS["rule"], label="not known")
    axes.set(xlabel="eps", ylabel="accuracy, %", ylim=(0, 101))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return drawn
