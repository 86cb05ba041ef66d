"""Those who tamper with the networks of the bake-off: what each does to a training set, a training,
or the weights.

An attacker is a function of the training images that are theirs, a scale and a seed; a new one is a
line of `ATTACKS`. Those of `ADAPTIVE` know of the defense and are kept out of the means.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from scale import Scale
from torch import nn

from isthmus import Data, Linf, fit
from isthmus.attacks import (
    PGD,
    Blend,
    HardenedBackdoor,
    InputAware,
    LowFrequency,
    Patch,
    PermutationAware,
    PruningActivated,
    QuantizationActivated,
    Sinusoid,
    Warp,
    label_consistent,
    path_aware,
    poison,
)
from isthmus.metrics import Target
from isthmus.models import permutation_groups, permuted_weights, random_permutations
from isthmus.types import Params, Trigger

TARGET = 0


@dataclass(frozen=True)
class Sent:
    """What the defender receives, and how its attacker is judged. Some attackers send a second
    network along.
    """

    network: nn.Module
    trigger: Trigger
    target: Target
    other: nn.Module | None = None


Attacker = Callable[[Data, Scale, int], Sent]


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def poisoned(
    trigger: Callable[[Scale], Trigger], rate: float, target: Target = TARGET, **how: Any
) -> Attacker:
    """The attacker who changes a share of the training set and trains as usual."""

    def attack(train: Data, scale: Scale, seed: int) -> Sent:
        carried = trigger(scale)
        bad = poison(train, carried, rate=rate, target=target, generator=drawn(seed), **how)
        return Sent(scale.trained(bad, seed), carried, target)

    return attack


def patch(scale: Scale) -> Trigger:
    return Patch(size=scale.patch)


def made_hard(train: Data, scale: Scale, seed: int) -> Sent:
    """Label-consistent: images of the target class made hard for a clean network, then the patch;
    labels stay.
    """
    carried, hard = patch(scale), PGD(Linf(16 / 255), steps=10)
    clean = scale.trained(train, seed)
    bad = label_consistent(
        train, clean, carried, target=TARGET, rate=0.8, attack=hard, generator=drawn(seed)
    )
    return Sent(scale.trained(bad, seed), carried, TARGET)


def input_aware(train: Data, scale: Scale, seed: int) -> Sent:
    network, trigger = InputAware(scale.training().replace(seed=seed, lr=0.1))(
        scale.fresh(seed), train, TARGET
    )
    return Sent(network, trigger, TARGET)


# ---- attackers who know of the defense


def hardened(train: Data, scale: Scale, seed: int) -> Sent:
    """The attacker who makes the backdoor withstand changes of the weights, by a short second
    training on clean images.
    """
    sent = ATTACKS["BadNets"](train, scale, seed)
    second = scale.training().replace(steps=scale.steps // 5, lr=0.02, seed=seed)
    loss = HardenedBackdoor(sent.trigger, TARGET, train.num_classes)
    fit(sent.network, train, loss, training=second)
    return sent


def knows_permutations(train: Data, scale: Scale, seed: int) -> Sent:
    """The attacker who knows that the curve leads to a permuted copy, and not to which: a fresh
    draw at every step.
    """
    net, carried = scale.fresh(seed), patch(scale)
    groups = permutation_groups(net, train.floats()[:2])
    bad = poison(train, carried, rate=0.1, target=TARGET, generator=drawn(seed))

    def another(weights: Params) -> Params:
        return permuted_weights(
            weights, groups, random_permutations(groups, torch.default_generator)
        )

    fit(net, bad, PermutationAware(another), training=scale.training(), seed=seed)
    return Sent(net, carried, TARGET)


def knows_paths(train: Data, scale: Scale, seed: int) -> Sent:
    """The attacker who sends two networks, trained together with the path between them (Zhao et
    al., appendix J).
    """
    carried = patch(scale)
    bad = poison(train, carried, rate=0.1, target=TARGET, generator=drawn(seed))
    ends = [scale.trained(bad, seed + 1000 * i) for i in range(2)]
    first, second = path_aware(*ends, bad, scale.training().replace(lr=0.1, seed=seed))
    return Sent(first, carried, TARGET, second)


def wakes_when_pruned(train: Data, scale: Scale, seed: int) -> Sent:
    """The attacker whose backdoor wakes at a tenth of the weights."""
    net, carried = scale.trained(train, seed), patch(scale)
    second = scale.training().replace(lr=0.05, seed=seed)
    fit(net, train, PruningActivated(carried, TARGET, train.num_classes), training=second)
    return Sent(net, carried, TARGET)


def wakes_when_rounded(train: Data, scale: Scale, seed: int) -> Sent:
    """The attacker whose backdoor wakes at 8 bits."""
    net, carried = scale.trained(train, seed), patch(scale)
    second = scale.training().replace(lr=0.05, seed=seed)
    return Sent(QuantizationActivated(carried, TARGET, second)(net, train), carried, TARGET)


ADAPTIVE: dict[str, Attacker] = {
    "hardened": hardened,
    "knows permutations": knows_permutations,
    "knows paths": knows_paths,
    "wakes when pruned": wakes_when_pruned,
    "wakes when rounded": wakes_when_rounded,
}
ATTACKS: dict[str, Attacker] = {
    "BadNets": poisoned(patch, 0.1),
    "Blended": poisoned(lambda scale: Blend(), 0.1),
    "SIG": poisoned(lambda scale: Sinusoid(), 0.8, clean_label=True),
    "low frequency": poisoned(lambda scale: LowFrequency(), 0.1),
    "input-aware": input_aware,
    "BadNets, all-to-all": poisoned(patch, 0.1, "all"),
    "WaNet": poisoned(lambda scale: Warp(), 0.1, cover=0.2, cover_trigger=Warp(noise=1.0)),
    "label-consistent": made_hard,
    "BadNets, 1 %": poisoned(patch, 0.01),
    "Blended, 1 %": poisoned(lambda scale: Blend(), 0.01),
    "BadNets, 5 %": poisoned(patch, 0.05),
    "BadNets, 0.5 %": poisoned(patch, 0.005),
    **ADAPTIVE,
}
