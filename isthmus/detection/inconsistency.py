"""Inconsistency between layers: how badly a layer's features predict those of the next one.

Source: the idea of arXiv 2505.12586, that clean inputs teach how the layers of a frozen network go
together. Ours is its plainest form: a ridge regression for each pair of layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from isthmus.detection.score import Score, check_width

RIDGE = 1e-2
"""Weight of the squared coefficients, for predictors of unit variance."""

_LEAST = 1e-3
"""Errors below this share of a feature's own deviation count as none."""


@dataclass(frozen=True, eq=False)
class Inconsistency(Score):
    """Root mean square of a layer's prediction errors, each over its size on clean data.

    The prediction is ((first - mean) / deviation) @ slopes + offset. Slopes come from every other
    reference sample, `errors` from the rest: errors on samples that were fitted are too small.
    """

    mean: Tensor
    deviation: Tensor
    slopes: Tensor
    offset: Tensor
    errors: Tensor

    dimensions: ClassVar[dict[str, str]] = {
        "mean": "d",
        "deviation": "d",
        "slopes": "d e",
        "offset": "e",
        "errors": "e",
    }
    reads: ClassVar[str] = "de"
    positive: ClassVar[tuple[str, ...]] = ("deviation", "errors")

    @classmethod
    def inputs(cls, layers: int) -> list[tuple[int, ...]]:
        """Return each layer with the one after it."""
        return [(layer - 1, layer) for layer in range(1, layers)]

    @classmethod
    def fit(cls, features: tuple[Tensor, ...], labels: Tensor, neighbors: int) -> Self:
        """Return the score of a pair of layers. Raises BadInput where the first has more features
        than WIDEST.
        """
        check_width(features[0], "a regression on them")
        first, second = (layer.double().cpu() for layer in features)
        fitted, rest = slice(0, None, 2), slice(1, None, 2) if len(first) > 1 else slice(None)
        mean, offset = first[fitted].mean(0), second[fitted].mean(0)
        deviation = first[fitted].std(0, correction=0)
        deviation = deviation.masked_fill(deviation == 0, 1)
        rows = (first[fitted] - mean) / deviation
        gram = rows.mT @ rows / len(rows)
        one = torch.eye(len(gram), dtype=gram.dtype)
        wanted = rows.mT @ (second[fitted] - offset) / len(rows)
        slopes = torch.linalg.solve(gram + RIDGE * one, wanted)
        slopes = slopes.contiguous()  # as a file gives it back: products differ in their last bits
        left = second[rest] - ((first[rest] - mean) / deviation @ slopes + offset)
        least = _LEAST * second.std(0, correction=0)
        errors = torch.maximum(left.square().mean(0).sqrt(), least)
        errors = errors.masked_fill(errors == 0, 1)  # NaN stays, and is refused
        return cls(mean, deviation, slopes, offset, errors)

    def __call__(self, *features: Tensor) -> Tensor:
        """Return the scores of features (n, d) and (n, e) of a layer and the next one."""
        first, second = (layer.double() for layer in features)
        mean, deviation, slopes, offset, errors = (
            tensor.to(first.device)
            for tensor in (self.mean, self.deviation, self.slopes, self.offset, self.errors)
        )
        predicted = (first - mean) / deviation @ slopes + offset
        shares = (second - predicted) / errors
        sizes: Tensor = torch.linalg.vector_norm(shares, dim=1)
        return sizes.div(shares.shape[1] ** 0.5)
