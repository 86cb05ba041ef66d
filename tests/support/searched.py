"""A backdoored and a clean digit classifier, inspected once for all tests that ask about them."""

from functools import lru_cache

import torch
from torch import nn

from isthmus import Patch, fit, load_data, poison
from isthmus.defenses import inspect
from isthmus.defenses.inspection.found_triggers import Inverted, MaskedPattern
from isthmus.metrics import Rate
from isthmus.models import small_cnn
from isthmus.training import one_cycle

# One pixel that no digit lights: found in a tenth of the size that other classes need. A larger
# patch is found or not by how the network happens to train, which differs between processors
# (docs/inspection.md has the shares). Of the seeds 101 to 108, 101 and 104 find another trigger on
# some CPU; of this one the clean network is least odd, with AVX512 and without.
TRIGGER, TARGET, SEED = Patch(size=1, at=(0, 0)), 1, 106
SEARCH = {"steps": 120, "batch_size": 16}  # those of the references that come with the package
BONAFIDE, HELD_OUT = slice(0, 250), slice(250, 500)


@lru_cache
def digits_network(backdoored: bool, seed: int = SEED) -> nn.Module:
    """A digit classifier like those of the references, of a seed that none of them has."""
    train = load_data("digits:train")
    if backdoored:
        train = poison(
            train, TRIGGER, rate=0.1, target=TARGET, generator=torch.Generator().manual_seed(seed)
        )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = small_cnn(channels=1, width=8)
    fit(
        net,
        train,
        steps=300,
        lr=0.2,
        batch_size=64,
        weight_decay=2e-4,
        nesterov=True,
        schedule=one_cycle,
        seed=seed,
        precision="fp32",  # that of the references; networks trained in bf16 are odder
    )
    return net


@lru_cache
def inspected(backdoored: bool, seed: int = SEED):
    test = load_data("digits:test")
    net = digits_network(backdoored, seed)
    return inspect(net, test[BONAFIDE], held_out=test[HELD_OUT], seed=seed, **SEARCH)


def inverted(score: float, target, kind="patch") -> Inverted:
    return Inverted(
        MaskedPattern(torch.zeros(1, 8, 8), torch.zeros(3, 8, 8)),
        target,
        kind,
        1.0,
        score,
        Rate(1, 2),
    )
