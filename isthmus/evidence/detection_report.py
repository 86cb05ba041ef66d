"""What a detector promises, and the three rows of its evaluation at every eps, as a record."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from isthmus.attacks.inputs.gradient import PGD
from isthmus.data.balls import Ball
from isthmus.data.dataset import Data
from isthmus.detection import Evaluation, ManifoldDetector, evaluate
from isthmus.detection.evaluation import Row
from isthmus.evidence.detection_record import (
    DETECTION,
    Detection,
    DetectionRow,
    DetectorPart,
    EvaluationPart,
    ThresholdPart,
)
from isthmus.evidence.evading import detector_aware
from isthmus.evidence.record import Origin, Value
from isthmus.runs.wording import percent

LIMITS = (
    "The false positive rate holds for inputs like the calibration samples.",
    "An input that is not flagged need not be clean.",
)
UNTRIED = "No attack was tried on this detector: isthmus detect evaluate does."
TRIED = "An attacker who knows the detector may do better than the one tried here."


def detection(
    detector: ManifoldDetector,
    evaluations: Sequence[Evaluation] = (),
    *,
    network: str,
    provenance: Origin,
) -> Detection:
    """Return the record of a detector with a threshold, and of its evaluations.

    `network` names what the detector works on. Raises BadInput where it is not fitted or has no
    threshold.
    """
    parts = tuple(_evaluation(evaluation) for evaluation in evaluations)
    settings = _detector(detector)
    record = {
        "schema": DETECTION,
        "title": f"Detector of {network}",
        "verdict": _verdict(settings.threshold, parts),
        "provenance": provenance,
        "detector": settings,
        "evaluations": parts,
        "limits": (*LIMITS, TRIED if parts else UNTRIED),
    }
    return Detection.read(record)


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
    """Return the three rows in every ball, with PGD as the attack.

    Raises BadInput as `evaluate` and the attacks do.
    """
    return tuple(
        evaluate(
            detector,
            model,
            data,
            ball,
            PGD(ball, steps=steps, returns="worst"),
            detector_aware(detector, ball, aware_steps),
            weights=weights,
        )
        for ball in balls
    )


def _detector(detector: ManifoldDetector) -> DetectorPart:
    """Return what the file of a detector says of it, and its recall. Raises BadInput without a
    threshold.
    """
    threshold = detector.calibrated_threshold.record()
    held = detector.held.model_dump()
    network = held["network"] or None
    recall = detector.recall
    return DetectorPart(**{**held, "network": network, "recall": recall, "threshold": threshold})


def _evaluation(evaluation: Evaluation) -> EvaluationPart:
    return EvaluationPart(
        eps=float(evaluation.eps),
        false_positives=Value.of(evaluation.false_positives),
        clean_quartiles=evaluation.quartiles,
        rows=tuple(_row(row) for row in evaluation.rows),
    )


def _row(row: Row) -> DetectionRow:
    return DetectionRow(
        inputs=row.inputs,
        weight=row.weight,
        auroc=Value.of(row.area),
        detected=Value.of(row.detected),
        wrong=Value.of(row.wrong),
        undetected=Value.of(row.undetected),
        quartiles=row.quartiles,
    )


def _verdict(threshold: ThresholdPart, evaluations: Sequence[EvaluationPart]) -> str:
    """Return what the detector promises, or what it leaves an attacker who knows it."""
    if not evaluations:
        return (
            f"It flags {percent(threshold.false_positive_rate)} of clean inputs, between "
            f"{percent(threshold.low)} and {percent(threshold.high)}; what it detects is not known "
            "yet."
        )
    worst = max(evaluations, key=lambda part: part.worst.undetected.value or 0.0)
    share = percent(worst.worst.undetected.value or 0.0)
    return f"At eps {worst.eps:g}, {share} of attacked inputs fool network and detector."
