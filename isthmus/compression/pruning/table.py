"""The pruning methods by name: a row for each."""

from __future__ import annotations

from isthmus.compression.pruning.job import Pruner
from isthmus.compression.pruning.learned_scores import LearnedScores
from isthmus.compression.pruning.magnitude import Magnitude
from isthmus.compression.pruning.random_mask import RandomMask
from isthmus.compression.pruning.rewiring import Rewiring


def pruners() -> dict[str, Pruner]:
    """Return the methods of this room by name, as they suit a trained network."""
    return {
        "magnitude": Magnitude(),
        "rewiring": Rewiring(start="magnitude", rate=0.2),
        "learned-scores": LearnedScores(),
        "random": RandomMask(),
    }
