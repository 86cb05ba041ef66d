"""The ways to quantize by name: a row for each."""

from __future__ import annotations

from isthmus.compression.quantization.ways import (
    BinaryRelax,
    PostTraining,
    Quantizer,
    StraightThrough,
)


def quantizers() -> dict[str, Quantizer]:
    """Return the ways of this room with their default settings, by name."""
    return {
        "binary-relax": BinaryRelax(),
        "straight-through": StraightThrough(),
        "post-training": PostTraining(),
    }
