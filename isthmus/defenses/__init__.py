"""What a repair is compared with: defenses `(tampered, bonafide) -> repaired network`, one file per source.

All of them start from the very network that the path starts from, get the same samples and budget, see no trigger and
no test data, and leave the tampered network as it is.
"""

from __future__ import annotations

from torch import nn

from isthmus.defenses.fine_prune import FinePrune
from isthmus.defenses.fine_tune import FineTune, FromScratch
from isthmus.defenses.noise import GaussianNoise, StraightAverage
from isthmus.train import Training
from isthmus.types import Defense

__all__ = ["Defense", "FinePrune", "FineTune", "FromScratch", "GaussianNoise", "StraightAverage", "standard"]


def standard(other: nn.Module, training: Training) -> dict[str, Defense]:
    """Return the baselines of Zhao et al. by name, for one second endpoint and one budget.

    One draw of each noise variant; `training` goes to every baseline that trains.
    """
    return {
        "fine-tune": FineTune(training),
        "from scratch": FromScratch(training),
        "fine-prune, by norm": FinePrune(training, by="norm"),
        "fine-prune, by dormancy": FinePrune(training, by="dormancy"),
        "noise between the ends": GaussianNoise(other, "between"),
        "noise around the tampered end": GaussianNoise(other, "around"),
        "straight average": StraightAverage(other),
    }
