"""What a repair is compared with: defenses `(tampered, bonafide) -> repaired network`, one file per
source.

All of them start from the very network that the path starts from, get the same samples and budget,
see no trigger and no test data, and leave the tampered network as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from isthmus.defenses.rivals.anp import ANP
from isthmus.defenses.rivals.clp import CLP
from isthmus.defenses.rivals.fine_prune import FinePrune
from isthmus.defenses.rivals.fine_tune import FineTune, FromScratch
from isthmus.defenses.rivals.ft_sam import FTSAM
from isthmus.defenses.rivals.i_bau import IBAU
from isthmus.defenses.rivals.nad import NAD
from isthmus.defenses.rivals.noise import GaussianNoise, StraightAverage
from isthmus.defenses.rivals.tac import TAC
from isthmus.defenses.rivals.tsc import TSC
from isthmus.defenses.rivals.ulrl import ULRL
from isthmus.runs.wording import check_known
from isthmus.training.budget import Training
from isthmus.types import Defense


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


RIVALS: dict[str, Callable[[Training], Defense]] = {
    "fine-tune": FineTune,
    "fine-prune": partial(FinePrune, by="dormancy"),
    "FT-SAM": FTSAM,
    "I-BAU": lambda training: IBAU(training.replace(lr=0.001)),
    "ANP": lambda training: ANP(training.replace(lr=0.2)),
    "NAD": NAD,
    "CLP": lambda training: CLP(),
    "ULRL": lambda training: ULRL(training.replace(lr=0.005)),
    "TAC": TAC,
    "TSC": lambda training: TSC(training.replace(lr=0.02)),
    "noise": lambda training: GaussianNoise(FineTune(training), "around"),
    "from scratch": FromScratch,
}
"""What makes each rival from a budget, by name."""

RIVAL_NAMES = tuple(RIVALS)


def rival(name: str, training: Training) -> Defense:
    """Return the one of `all_rivals` that has this name. Raises BadInput where none has."""
    check_known("rival", name, RIVALS)
    return RIVALS[name](training)


def all_rivals(training: Training) -> dict[str, Defense]:
    """Return by name the defenses that a repair of one checkpoint has to beat, at one budget.

    `training.steps` counts gradient evaluations, and `training.lr` is that of SGD on the network;
    ANP's masks, I-BAU's Adam, ULRL and TSC's curves have their published rates. Other settings are
    the published ones, see docs/defenses.md. For the noise, the second end is a fine-tuned copy.
    """
    return {name: rival(name, training) for name in RIVAL_NAMES}
