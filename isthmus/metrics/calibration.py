"""Calibration: whether a network is as sure of its answers as it is right.

Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 2 (expected
calibration error, 15 bins of equal width).

Where we depart: the error comes with an interval. For given bins it is an average over samples, of
confidence minus rightness, each with the sign of its bin, so its interval is that of a mean. The
estimate is too high where bins hold few samples, and the interval does not correct that.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from isthmus.data.dataset import Data
from isthmus.metrics.passes import Passes
from isthmus.metrics.question import Question
from isthmus.metrics.values import SHARE, Mean
from isthmus.runs.devices import Precision
from isthmus.types import BadInput


@dataclass(frozen=True, eq=False)
class Confidence(Question[Mean]):
    """Mean probability that a network gives its own answers, in [0, 1], as a Mean.

    Of a calibrated network it is the accuracy; above that the network is overconfident.
    """

    precision: Precision = "fp32"

    def answer(self, passes: Passes) -> Mean:
        sure, _ = _answers(self.samples, passes, self.precision)
        return Mean.of(sure, unit=SHARE)


@dataclass(frozen=True, eq=False)
class CalibrationError(Question[Mean]):
    """Expected calibration error: mean distance of confidence from accuracy over bins of equal
    width, weighted by their samples, in [0, 1], as a Mean.

    Raises BadInput where `bins` is below 1.
    """

    bins: int = 15
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        if self.bins < 1:
            raise BadInput(f"{self.bins} bins", expected="1 or more", fix="leave bins at 15")
        super().__post_init__()

    def answer(self, passes: Passes) -> Mean:
        sure, right = _answers(self.samples, passes, self.precision)
        place = (self.bins * sure).long().clamp(max=self.bins - 1)
        gaps = sure - right
        totals = torch.zeros(self.bins, dtype=gaps.dtype).index_add(0, place, gaps)
        return Mean.of(totals.sign()[place] * gaps, unit=SHARE)


def _answers(data: Data, passes: Passes, precision: Precision) -> tuple[Tensor, Tensor]:
    """Return the probability of each answer and whether it is right, (n,) float64 each."""
    probabilities = passes.logits(data, precision).double().softmax(1)
    sure, answers = probabilities.max(1)
    return sure, (answers == data.y).double()
