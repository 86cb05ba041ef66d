"""The record of a detector: what the report.json of `isthmus detect` holds, as types."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, MinLen
from pydantic import Field

from isthmus.detection.evaluation import ATTACK, AWARE, NOISE
from isthmus.evidence.record import (
    Document,
    Finite,
    Fraction,
    Hash,
    Number,
    Positive,
    Quartiles,
    RecordPart,
    Text,
    Value,
)

DETECTION = "isthmus-detection/1"
"""The version of the record. A change that breaks readers raises the number."""


class ThresholdPart(RecordPart):
    """The score above which an input is flagged, and the share of clean inputs that it flags, with
    the 95 % interval that the calibration samples allow.
    """

    value: Number
    false_positive_rate: Fraction
    low: Fraction
    high: Fraction
    samples: Positive
    """Calibration samples."""


class DetectorPart(RecordPart):
    """The settings of a detector, and what it is bound to."""

    score: Text
    neighbors: Positive
    index: Text = "exact"
    recall: Fraction | None = None
    """The share of the nearest reference rows that the index finds; absent where it is all."""
    layers: tuple[Text, ...]
    """None for a detector of pixels."""
    shape: tuple[Positive, ...]
    scales: tuple[Number, ...]
    network: Hash | None
    """Hash of the weights, in the order of their names; null where no network takes part."""
    reference: Hash
    reference_samples: Positive
    threshold: ThresholdPart


class DetectionRow(RecordPart):
    """What became of one kind of input."""

    inputs: Text
    weight: Number
    """That of the score in a detector-aware attack; null for other inputs."""
    auroc: Value
    detected: Value
    """Share above the threshold."""
    wrong: Value
    """Share that the network gets wrong."""
    undetected: Value
    """Share that is wrong and not flagged: these fool both."""
    quartiles: Quartiles
    """Of the score."""


class EvaluationPart(RecordPart):
    """The rows at one eps: an attack, noise, and the detector-aware attack at every weight."""

    eps: Annotated[Finite, Ge(0)]
    false_positives: Value
    clean_quartiles: Quartiles
    """Of the score of clean inputs."""
    rows: Annotated[tuple[DetectionRow, ...], MinLen(1)]

    @property
    def worst(self) -> DetectionRow:
        """The row of the largest share that fools both network and detector, noise apart."""
        attacks = [row for row in self.rows if row.inputs != NOISE]
        return max(attacks or self.rows, key=lambda row: row.undetected.value or 0.0)

    def strongest(self) -> dict[str, DetectionRow]:
        """Return one row for each kind of input: of the detector-aware attack the one that fools
        both most often.
        """
        rows = {row.inputs: row for row in self.rows if row.inputs in (ATTACK, NOISE)}
        aware = [row for row in self.rows if row.inputs == AWARE]
        if aware:
            rows[AWARE] = max(aware, key=lambda row: row.undetected.value or 0.0)
        return rows


class Detection(Document):
    """What a detector promises, and its evaluations, where there are any.

    Shares are fractions in [0, 1]; a number that was not finite is null.
    """

    kind: ClassVar = DETECTION
    contract: ClassVar = DETECTION
    version: Literal["isthmus-detection/1"] = Field(alias="schema")
    detector: DetectorPart
    evaluations: tuple[EvaluationPart, ...]
