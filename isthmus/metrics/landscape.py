"""The robustness landscape of a path: what the loss does along t, under attack, and around each
sample.

Source: Zhao et al., ICLR 2020, section 4, Fig. 4 and Proposition 1; docs/landscape.md.

Where we depart: the paper correlates the robustness loss with one eigenvalue estimate. Here
everything is measured on the same samples at the same t; the gradient norms stand beside the
eigenvalue, since a first-order term is a simpler explanation of a barrier; and every correlation
comes with the caveats that it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from operator import attrgetter
from typing import Any, Literal, get_args

from torch import Tensor

from isthmus.data.balls import L2, Ball, Linf
from isthmus.data.dataset import Source, as_data
from isthmus.metrics.accuracy import Error, MeanLoss
from isthmus.metrics.correlation import (
    Kind,
    Null,
    Series,
    combine,
    correlate,
    over_repeats,
    r_squared,
)
from isthmus.metrics.curvature.inputs import InputHessian
from isthmus.metrics.names import (
    ALIGNMENT,
    ERROR,
    EVASION,
    GRADIENT_L1,
    GRADIENT_L2,
    LAMBDA_MAX,
    LANDSCAPE,
    LOSS,
    LOWER,
    ROBUST_LOSS,
    UPPER,
)
from isthmus.metrics.path import Path
from isthmus.metrics.robustness import EvasionSuccess, Nearby, RobustLoss
from isthmus.metrics.values import NATS, PER_SQUARE, PER_UNIT, as_record
from isthmus.types import Attack, Metric

WITH_BARRIERS = (LOSS, ERROR, ROBUST_LOSS, EVASION, LAMBDA_MAX, GRADIENT_L1)
"""The metrics whose barrier along the path is reported."""

AGAINST = (LAMBDA_MAX, GRADIENT_L1, GRADIENT_L2, ALIGNMENT, LOSS)
"""The metrics that the robustness loss is correlated with."""


CAVEATS = (
    "Neighboring t are alike, so far fewer points than m count; p-values are of circular shifts or "
    "permuted blocks, those of shifts too small where a series has a trend, and one path is one "
    "observation: repeat over independent paths.",
    "Two curves with one hump each correlate, whatever the reason.",
    "How sure the network is (its softmax) drives both the curvature and the loss.",
    "Correlation with the gradient norm stands beside that with lambda_max: where the norm varies "
    "along the path, the first-order term is the likelier cause of a barrier.",
    "The samples are the same at every t; other samples may say otherwise.",
    "Proposition 1 assumes a loss that is constant along t and a quadratic model in the input. A "
    "network of ReLUs crosses many linear regions within eps, which the curvature at the sample "
    "does not see; and its optimum is for an l2 ball, where the attacks may be in another.",
)
"""What a reader of the correlations has to know."""


@dataclass(frozen=True)
class SandwichEnd:
    """One end of the sandwich around the quadratic model's worst loss in a ball, per sample; see
    `InputHessian`.
    """

    ball: Ball
    end: Literal["lower", "upper"]

    def __call__(self, curvature: InputHessian) -> Tensor:
        """Return the bound of each sample, (n,)."""
        lower, upper = curvature.bounds(self.ball)
        return lower if self.end == "lower" else upper


def landscape_metrics(data: Source, attack: Attack) -> dict[str, Metric]:
    """Return the metrics of the landscape by name, all about the same samples, for `measure` and
    `evaluate_path`.

    Measure with `ends="recalibrated"`: statistics of another origin at the ends alone would look
    like a step in t. One run of the attack and one computation of the derivatives serve all of
    them. The attack has to look for the largest loss: `PGD(ball, returns="worst")`; one that has a
    `ball` adds the bounds of the quadratic model in it.
    """
    samples = as_data(data)
    metrics: dict[str, Metric] = {
        LOSS: MeanLoss(samples),
        ERROR: Error(samples),
        ROBUST_LOSS: RobustLoss(samples, attack),
        EVASION: EvasionSuccess(samples, attack),
    }
    metrics[LAMBDA_MAX] = Nearby(samples, attrgetter("top"), PER_SQUARE)
    metrics[GRADIENT_L1] = Nearby(samples, attrgetter("l1"), PER_UNIT)
    metrics[GRADIENT_L2] = Nearby(samples, attrgetter("l2"), PER_UNIT)
    metrics[ALIGNMENT] = Nearby(samples, attrgetter("alignment"))
    ball = getattr(attack, "ball", None)
    if isinstance(ball, L2 | Linf):
        metrics[LOWER] = Nearby(samples, SandwichEnd(ball, "lower"), NATS)
        metrics[UPPER] = Nearby(samples, SandwichEnd(ball, "upper"), NATS)
    return metrics


def series(path: Path, name: str) -> Series:
    """Return one metric of a path as a series.

    Raises BadInput where it was not measured, or at fewer than 4 points.
    """
    return Series(name, path.t, tuple(float(value) for value in path[name]))


def explained(paths: Sequence[Path]) -> dict[str, float]:
    """Return R^2 of the robustness loss on ||g||_1 alone, on lambda_max alone, and on both, within
    the paths.

    The testable form of Proposition 1 of Zhao et al. Several paths share their slopes, and each has
    an intercept of its own.
    """
    outcome = [series(path, ROBUST_LOSS) for path in paths]
    norm = [series(path, GRADIENT_L1) for path in paths]
    top = [series(path, LAMBDA_MAX) for path in paths]
    return {
        GRADIENT_L1: r_squared(outcome, norm),
        LAMBDA_MAX: r_squared(outcome, top),
        "both": r_squared(outcome, norm, top),
    }


def _finite(value: Any) -> Any:
    """A value as JSON can hold it: numbers that are not finite become null."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    return None if isinstance(value, float) and not isfinite(value) else value


def record(path: Path, attack: str, *, null: Null = "shift") -> dict[str, Any]:
    """Return the landscape of one path as plain JSON: values at every t, barriers, correlations,
    R^2 and caveats.

    `attack` says in words what the robustness loss is measured under. Of fewer than 4 points
    nothing is correlated. Raises BadInput where the path lacks a metric of the landscape.
    """
    landscape: dict[str, Any] = {
        "attack": attack,
        "t": list(path.t),
        "values": {
            name: [_finite(as_record(v)) for v in path[name]]
            for name in LANDSCAPE
            if name in path.values
        },
        "barriers": {name: _finite(path.barrier(name)) for name in WITH_BARRIERS},
        "correlations": [],
        "explained": {},
        "caveats": list(CAVEATS),
    }
    if len(path.t) >= 4:
        outcome = series(path, ROBUST_LOSS)
        pairs = [correlate(outcome, series(path, name), null) for name in AGAINST]
        landscape["correlations"] = [_finite(asdict(pair)) for pair in pairs]
        landscape["explained"] = _finite(explained([path]))
    return landscape


def repeated(paths: Sequence[Path], *, null: Null = "shift") -> dict[str, Any]:
    """Return what independent paths say together, as plain JSON: barriers, correlations and R^2
    with intervals.

    Intervals are Student's over the paths. `null` as in `correlate`. Raises BadInput as `record`
    does.
    """
    pairs = {
        n: [correlate(series(p, ROBUST_LOSS), series(p, n), null) for p in paths] for n in AGAINST
    }
    combined = {
        name: {kind: combine(own, kind) for kind in get_args(Kind)} for name, own in pairs.items()
    }
    correlations = {
        name: {kind: {**asdict(estimate), "p": p} for kind, (estimate, p) in kinds.items()}
        for name, kinds in combined.items()
    }
    alone = [explained([path]) for path in paths]
    return {
        "paths": len(paths),
        "barriers": {
            name: _finite(asdict(over_repeats([p.barrier(name) for p in paths])))
            for name in WITH_BARRIERS
        },
        "correlations": _finite(correlations),
        "explained": {
            n: _finite({**asdict(over_repeats([e[n] for e in alone])), "pooled": value})
            for n, value in explained(paths).items()
        },
    }
