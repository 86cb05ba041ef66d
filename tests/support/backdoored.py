"""Two backdoored digit classifiers that train in seconds, for all tests: the fixtures `tampered`
and `samples`.
"""

from functools import lru_cache

import torch
from torch import nn

from isthmus import Data, fit, load_data, split
from isthmus.attacks import Patch, poison
from isthmus.models import small_cnn
from isthmus.training import one_cycle

TRIGGER = Patch(size=2)
FAST = {"steps": 200, "lr": 0.5, "precision": "fp32"}  # of a curve between them


@lru_cache
def backdoored() -> list[nn.Module]:
    """Trained alike from different weights; tests must leave them as they are."""
    data = load_data("digits:train")
    bad = poison(data, TRIGGER, rate=0.1, target=1, generator=torch.Generator().manual_seed(0))
    nets = []
    for seed in range(2):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            nets.append(small_cnn(channels=1, width=16))
        fit(nets[-1], bad, steps=150, lr=0.2, schedule=one_cycle, seed=seed)
    return nets


def bonafide_and_evaluation() -> list[Data]:
    """200 samples that train a repair, and 300 that judge it."""
    return split(load_data("digits:test"), [200, 300], torch.Generator().manual_seed(0))
