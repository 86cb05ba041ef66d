"""What metrics are called where a person reads them, and which of them are losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Record = Mapping[str, Any]
"""A report, or a part of it, as plain JSON."""


LABELS = {
    "accuracy": "Clean accuracy",
    "bonafide accuracy": "Bonafide accuracy",
    "attack success": "Attack success rate",
    "loss": "Clean loss",
    "bonafide loss": "Bonafide loss",
    "robustness loss": "Robustness loss",
    "evasion success": "Evasion success",
    "lambda_max": "λ_max",
    "gradient l1": "‖g‖₁",
    "gradient l2": "‖g‖₂",
    "alignment": "Alignment c",
    "both": "Both together",
}
"""What a person reads for each metric; any other metric goes by its own name."""


def label(name: str) -> str:
    """Return what a person reads for a metric.

    >>> label("attack success"), label("robust accuracy")
    ('Attack success rate', 'Robust accuracy')
    """
    return LABELS.get(name, name[:1].upper() + name[1:])


def is_loss(name: str) -> bool:
    """Whether a metric is a loss, in nats; every other one is a share of samples, in [0, 1]."""
    return name.endswith("loss")


def short(text: str, length: int = 28) -> str:
    """Return the text on one line, cut with an ellipsis where it is too long for a figure.

    >>> short("a fine-tuned copy", 10)
    'a fine-tu…'
    """
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1] + "…"
