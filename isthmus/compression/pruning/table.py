"""The pruning methods by name: a row for each."""

from __future__ import annotations

from isthmus.compression.pruning.job import Pruner
from isthmus.compression.pruning.learned_scores import LearnedScores
from isthmus.compression.pruning.magnitude import Magnitude
from isthmus.compression.pruning.random_mask import RandomMask
from isthmus.compression.pruning.rewiring import Rewiring


def pruners() -> dict[str, Pruner]:
    """Return the methods of this room with their default settings, by name."""
    return {
        "magnitude": Magnitude(),
        "rewiring": Rewiring(),
        "learned-scores": LearnedScores(),
        "random": RandomMask(),
    }
