"""A curve with measurements: any metrics at any t, each point stored as soon as it is computed.

Source: Garipov et al., NeurIPS 2018; Zhao et al., ICLR 2020, Figs. 1-4; barrier after Frankle et
al., ICML 2020.

Where we depart: BatchNorm at every interior t is recalibrated on bonafide data alone; the two ends
keep their own buffers unless ends="recalibrated", so that t = 0 and t = 1 are the checkpoints that
came in, and what recalibration alone does to them is taken back in between (see `curves/point`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as File
from typing import Any, Literal

import torch

from isthmus.curves.curve import Curve
from isthmus.curves.networks import PathNetworks
from isthmus.data.dataset import Data, Source
from isthmus.metrics.question import measure
from isthmus.metrics.values import as_record, from_record
from isthmus.models.batchnorm import recalibrated_layers
from isthmus.runs.devices import Precision
from isthmus.runs.files import read_json, write_json
from isthmus.runs.identity import identity_of, sha256_of
from isthmus.runs.processes import gathered, ranks
from isthmus.runs.progress import bar
from isthmus.types import BadInput, Metric


@dataclass(frozen=True)
class Path:
    """Values along a curve: for each t, the weight-space distance from the start and every metric's
    answer.
    """

    t: tuple[float, ...]
    distance: tuple[float, ...]
    values: dict[str, tuple[float, ...]]
    length: float
    recalibrated_on: str

    def __getitem__(self, name: str) -> tuple[float, ...]:
        """Return one metric's values, in the order of t.

        Raises BadInput where the metric was not measured.
        """
        if name not in self.values:
            raise BadInput(
                f"metric {name!r}",
                expected=f"one of {sorted(self.values)}",
                fix="measure it along the path",
            )
        return self.values[name]

    def barrier(self, name: str, *, drop: bool = False) -> float:
        """Return the greatest excess of a metric over the straight line between its values at the
        two ends.

        With `drop`, the greatest shortfall below that line: the barrier of an accuracy. Never
        negative.
        """
        values, (first, last) = self[name], (self.t[0], self.t[-1])
        line = [
            values[0] + (values[-1] - values[0]) * (t - first) / (last - first or 1) for t in self.t
        ]
        excess = [float(value) - base for value, base in zip(values, line, strict=True)]
        return max(-e if drop else e for e in excess)

    def mean(self, name: str) -> float:
        """Return a metric's average over t, by the trapezoid rule."""
        values = torch.tensor([float(v) for v in self[name]], dtype=torch.float64)
        ts = torch.tensor(self.t, dtype=torch.float64)
        return (
            float(torch.trapezoid(values, ts) / (ts[-1] - ts[0]))
            if len(ts) > 1
            else float(values[0])
        )

    def at(self, t: float) -> dict[str, float]:
        """Return every metric's value at one measured t.

        Raises BadInput where t was not measured.
        """
        matches = [i for i, measured in enumerate(self.t) if abs(measured - t) < 1e-9]
        if not matches:
            raise BadInput(
                f"t = {t:g}",
                expected=f"one of {[round(measured, 4) for measured in self.t]}",
                fix="pass one of these, or measure the path at this t too",
            )
        return {name: values[matches[0]] for name, values in self.values.items()}

    def record(self) -> dict[str, Any]:
        """Return the path as plain JSON."""
        values = {name: [as_record(v) for v in series] for name, series in self.values.items()}
        return {
            "t": list(self.t),
            "distance": list(self.distance),
            "values": values,
            "length": self.length,
            "recalibrated_on": self.recalibrated_on,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Path:
        """Return the path that `record` wrote."""
        values = {
            name: tuple(from_record(r, name) for r in series)
            for name, series in record["values"].items()
        }
        return cls(
            tuple(record["t"]),
            tuple(record["distance"]),
            values,
            record["length"],
            record["recalibrated_on"],
        )


def grid(t: int | Sequence[float], low: float = 0.0, high: float = 1.0) -> tuple[float, ...]:
    """Return the values of t: a count of equally spaced ones from low to high, or those given,
    sorted, each once.

    Raises BadInput where the count is below 2 or a value is outside [0, 1].

    >>> grid(3), grid(2, 0.1, 0.3), grid([0.5, 0.1])
    ((0.0, 0.5, 1.0), (0.1, 0.3), (0.1, 0.5))
    """
    if isinstance(t, int):
        if t < 2:
            raise BadInput(
                f"{t} points",
                expected="2 or more, the ends among them",
                fix="pass t=21, or the values",
            )
        t = [round(low + (high - low) * i / (t - 1), 12) for i in range(t)]
    values = tuple(sorted({float(value) for value in t}))
    if not values or not 0 <= values[0] <= values[-1] <= 1:
        raise BadInput(
            f"t = {list(t)}", expected="values in [0, 1]", fix="pass points on the curve"
        )
    return values


def _fingerprint(
    curve: Curve, metrics: Mapping[str, Metric], data: Data, ends: str, precision: str
) -> str:
    """Recognize a point by all that its values depend on, so that a cache can never answer for
    another curve.
    """
    questions = "".join(f"{name}={identity_of(metric)};" for name, metric in metrics.items())
    others = [*curve.uncombined(0.0).values(), *curve.uncombined(1.0).values()]
    weights = sha256_of(curve.ends, curve.frozen_ends, curve.bends, *others)
    text = f"{type(curve).__name__} {weights} {data.sha256} {ends} {precision} {questions}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def evaluate_path(
    curve: Curve | PathNetworks,
    metrics: Mapping[str, Metric],
    t: int | Sequence[float] = 21,
    *,
    recalibrate_on: Source | None = None,
    ends: Literal["own", "recalibrated"] = "own",
    precision: Precision = "fp32",
    folder: str | File | None = None,
) -> Path:
    """Return every metric at every t, on the exported and recalibrated network of that t.

    `t` is a count of equally spaced points or the values. `recalibrate_on` is the bonafide data,
    all that BatchNorm ever sees. Instead of a curve and these data, `PathNetworks` can be given,
    whose data and precision are taken: it recalibrates each t once, however often it is measured.
    With `folder`, each point is stored there when it is computed, and is not computed again. Under
    `torchrun` the points are shared out among the ranks. Raises BadInput where t leaves [0, 1], or
    a curve comes without data.
    """
    networks = _networks(curve, recalibrate_on, precision)
    curve, data, precision = networks.curve, networks.data, networks.precision
    ts = grid(t)
    here = ranks()
    mark = _fingerprint(curve, metrics, data, ends, precision) if folder else ""
    points: dict[float, dict[str, float]] = {}
    mine = ts[here.rank :: here.world]
    with bar("measuring the path", len(mine)) as advance:
        for at in mine:
            file = File(folder) / f"{mark}-t{at:.6f}.json" if folder else None
            points[at] = _point(networks, metrics, at, ends, file)
            advance(f"t = {at:g}")
    points = {at: values for part in gathered(points) for at, values in part.items()}
    distance = tuple(curve.distance(at) for at in ts)
    values = {name: tuple(points[at][name] for at in ts) for name in metrics}
    return Path(ts, distance, values, curve.arc_length(), _recalibrated_on(curve, data, ends))


def _point(
    networks: PathNetworks,
    metrics: Mapping[str, Metric],
    t: float,
    ends: Literal["own", "recalibrated"],
    file: File | None,
) -> dict[str, float]:
    """Return every metric's value at t; read from the file if it is there, else written to it."""
    if file is not None and file.exists():
        return {name: from_record(record, name) for name, record in read_json(file).items()}
    values = measure(networks.at(t, ends=ends), metrics)
    if file is not None:
        write_json(file, {name: as_record(value) for name, value in values.items()})
    return values


def _networks(
    curve: Curve | PathNetworks, data: Source | None, precision: Precision
) -> PathNetworks:
    """Return the networks to measure. Raises BadInput where there are no data, or data twice."""
    if (data is None) == isinstance(curve, Curve):
        raise BadInput(
            f"a {type(curve).__name__} and {'no' if data is None else 'other'} bonafide data",
            expected="a curve and data, or PathNetworks alone",
            fix="pass recalibrate_on with a curve",
        )
    if isinstance(curve, Curve):
        assert data is not None
        return PathNetworks(curve, data, precision=precision)
    return curve


def _recalibrated_on(curve: Curve, data: Data, ends: str) -> str:
    if not recalibrated_layers(curve.export(0.0)):
        return "nothing: the network has no BatchNorm statistics that move"
    where = "every t"
    if ends == "own":
        where = (
            "every t but the ends, which keep their own statistics and which those between tend to"
        )
    return f"{len(data)} bonafide samples (sha256 {data.sha256[:16]}) at {where}"
