"""What metrics and units are called where a person reads them."""

from __future__ import annotations

from isthmus.metrics.names import (
    ACCURACY,
    ATTACK_SUCCESS,
    BONAFIDE_ACCURACY,
    BONAFIDE_LOSS,
    DIVERGENCE,
    LOSS,
    RECALIBRATED,
    SPARSE,
    STAND_INS,
    UNIVERSAL,
)
from isthmus.metrics.values import NATS, PER_SQUARE, PER_UNIT, SHARE

LABELS = {
    ACCURACY: "Clean accuracy",
    BONAFIDE_ACCURACY: "Bonafide accuracy",
    ATTACK_SUCCESS: "Attack success rate",
    STAND_INS: "Stand-in, inverted",
    UNIVERSAL: "Stand-in, universal",
    SPARSE: "Stand-in, sparse",
    RECALIBRATED: "Stand-in, recalibrated",
    LOSS: "Clean loss",
    BONAFIDE_LOSS: "Bonafide loss",
    DIVERGENCE: "Divergence",
    "robustness loss": "Robustness loss",
    "evasion success": "Evasion success",
    "lambda_max": "λ_max",
    "gradient l1": "‖g‖₁",
    "gradient l2": "‖g‖₂",
    "alignment": "Alignment c",
    "both": "Both together",
}
"""What a person reads for each metric; any other metric goes by its own name."""

UNITS = {
    SHARE: "share of samples",
    NATS: "loss (nats)",
    PER_UNIT: "gradient",
    PER_SQUARE: "curvature",
    "": "value",
}
"""What the axis of a figure is called for each unit; any other unit goes by its own name."""


def label(name: str) -> str:
    """Return what a person reads for a metric.

    >>> label("attack success"), label("robust accuracy")
    ('Attack success rate', 'Robust accuracy')
    """
    return LABELS.get(name, name[:1].upper() + name[1:])


def axis(unit: str) -> str:
    """Return what a person reads at an axis of this unit.

    >>> axis("nats"), axis("flips")
    ('loss (nats)', 'flips')
    """
    return UNITS.get(unit, unit)


def short(text: str, length: int = 28) -> str:
    """Return the text on one line, cut with an ellipsis where it is too long for a figure.

    >>> short("a fine-tuned copy", 10)
    'a fine-tu…'
    """
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1] + "…"
