"""Three rows or none: what a detector does to an attack, to random noise of the same size, and to
an attacker who knows it.

The first row alone misleads: a detector that reacts to noise as much has seen no attack, and one
that the third row passes stops nobody who knows it (Carlini and Wagner, AISec 2017).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from isthmus.data.balls import Ball
from isthmus.data.balls import Linf as LinfBall
from isthmus.data.dataset import Data, Source, as_data
from isthmus.detection.detector import ManifoldDetector
from isthmus.metrics.area import Area
from isthmus.metrics.passes import attacked, logits
from isthmus.metrics.values import Rate, as_record
from isthmus.types import Attack, BadInput

WEIGHTS = (0.1, 1.0, 10.0)
"""How much the attacker who knows the detector cares for its score, in units of the threshold."""

ATTACK, NOISE, AWARE = "attack", "noise", "detector-aware attack"


@dataclass(frozen=True)
class Row:
    """What became of one kind of input.

    `detected` is the share above the threshold, `wrong` the share that the network gets wrong,
    `undetected` the share that is wrong and not flagged: these fool both. `weight` is that of the
    score in a detector-aware attack. `quartiles` are those of the score.
    """

    inputs: str
    area: Area
    detected: Rate
    wrong: Rate
    undetected: Rate
    quartiles: tuple[float, float, float]
    weight: float | None = None

    def record(self) -> dict[str, Any]:
        """Return the row as plain JSON."""
        return {
            "inputs": self.inputs,
            "weight": self.weight,
            "auroc": as_record(self.area),
            "detected": as_record(self.detected),
            "wrong": as_record(self.wrong),
            "undetected": as_record(self.undetected),
            "quartiles": list(self.quartiles),
        }


@dataclass(frozen=True)
class Evaluation:
    """The rows at one eps: the attack, noise, and the detector-aware attack at every weight.

    `false_positives` is the share of the clean evaluation samples that is flagged.
    """

    eps: float
    false_positives: Rate
    quartiles: tuple[float, float, float]
    attack: Row
    noise: Row
    aware: tuple[Row, ...]

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows, in order."""
        return self.attack, self.noise, *self.aware

    @property
    def worst(self) -> Row:
        """The row of the largest share that fools both network and detector, noise apart."""
        return max((self.attack, *self.aware), key=lambda row: row.undetected)

    def record(self) -> dict[str, Any]:
        """Return everything as plain JSON."""
        return {
            "eps": self.eps,
            "false positives": as_record(self.false_positives),
            "clean quartiles": list(self.quartiles),
            "rows": [row.record() for row in self.rows],
        }


def evaluate(
    detector: ManifoldDetector,
    model: nn.Module,
    data: Source,
    ball: Ball,
    attack: Attack,
    aware: Callable[[float], Attack],
    *,
    weights: Sequence[float] = WEIGHTS,
    seed: int = 0,
) -> Evaluation:
    """Return the three rows on the samples that the network gets right.

    `attack` and `aware(weight)`, for every weight, stay in the ball. Raises BadInput where samples
    are of another shape than the reference, or among it or the calibration data, no sample is
    right, there is no threshold, or no weight.
    """
    data = as_data(data)
    if not weights:
        raise BadInput(
            "no weight for the attacker who knows the detector",
            expected="one or more",
            fix="leave weights out: 0.1, 1, 10",
        )
    detector.check_images(data.x)
    detector.check_apart(data)
    right = _right(model, data)
    clean = detector.score(right.x)
    judged = _Judged(detector, model, clean)
    threshold = detector.calibrated_threshold
    noise = Data(signed_noise(right.floats(), ball, seed), right.y, right.classes)
    aware_rows = [
        judged.row(AWARE, attacked(model, right, aware(weight)), weight) for weight in weights
    ]
    return Evaluation(
        ball.eps,
        Rate(int(threshold.flags(clean).sum()), len(clean)),
        quartiles_of(clean),
        judged.row(ATTACK, attacked(model, right, attack)),
        judged.row(NOISE, noise),
        tuple(aware_rows),
    )


def _right(model: nn.Module, data: Data) -> Data:
    """Return the samples that the network gets right. Raises BadInput where there are none."""
    right = logits(model, data).argmax(1) == data.y
    if not bool(right.any()):
        raise BadInput(
            f"{len(data)} samples of which the network gets none right",
            expected="one or more: an attack is to change a right answer",
            fix="check that labels, size and normalization are those of the network",
        )
    return data[right]


@dataclass(frozen=True, eq=False)
class _Judged:
    """A detector and a network, and the scores of clean inputs that others are compared with."""

    detector: ManifoldDetector
    model: nn.Module
    clean: Tensor

    def row(self, name: str, data: Data, weight: float | None = None) -> Row:
        scores = self.detector.score(data.x)
        flagged = self.detector.calibrated_threshold.flags(scores)
        wrong = logits(self.model, data).argmax(1) != data.y
        n = len(data)
        return Row(
            name,
            Area.of(self.clean, scores),
            Rate(int(flagged.sum()), n),
            Rate(int(wrong.sum()), n),
            Rate(int((wrong & ~flagged).sum()), n),
            quartiles_of(scores),
            weight,
        )


def signed_noise(x: Tensor, ball: Ball, seed: int = 0) -> Tensor:
    """Return x (n, ...) moved at random as far as an attack goes: signs times eps in l-inf, a
    random direction of norm eps in other balls; clipped to [0, 1].
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(x.shape, generator=generator)
    if isinstance(ball, LinfBall):
        return (x + ball.eps * noise.sign()).clamp(0, 1)
    norms = ball.norm(noise).view(-1, *[1] * (x.ndim - 1))
    return (x + ball.eps * noise / norms).clamp(0, 1)


def quartiles_of(scores: Tensor) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile."""
    places = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    lower, median, upper = torch.quantile(scores.double(), places).tolist()
    return lower, median, upper
