"""A copy that has unlearned universal perturbations, which a repair makes by default."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path as File

from torch import nn

from isthmus.curves.route import CURVE_TRAINING, Route
from isthmus.data.dataset import Data
from isthmus.defenses.unlearning.unlearn import (
    COST,
    LARGEST_RATE,
    RATES,
    UNLEARNING,
    UniversalUnlearning,
)
from isthmus.models.batchnorm import recalibrated_layers
from isthmus.runs.folder import state_file
from isthmus.training.budget import Training
from isthmus.training.suited import suited_augmentation

ALMOST = Route(bends=0, low=0.5, high=0.9)
"""The route to an unlearned copy: straight, and not quite to its end, where the last tenth costs
accuracy and removes next to nothing: docs/results/trained.md."""

WARPS_TAKE = (2, 3.0)
"""How many times as many steps warps take to unlearn as perturbations, at how many times the rate:
at the rate of those a fifth of them is left (docs/experiments.md, statistics that follow)."""


def unlearned_copy(
    tampered: nn.Module,
    bonafide: Data,
    training: Training = CURVE_TRAINING,
    *,
    home: File | None = None,
) -> UniversalUnlearning:
    """Return the defense that makes the second endpoint of a repair by default.

    `training` is that of a curve. The defense takes as many steps for each of its own, at
    `UNLEARNING`'s rate and clipping norm in the same proportion, and larger rates where that does
    not unlearn enough. Where the training has no augmentation, it is the one that fits the network,
    see `suited_augmentation`. The path to the copy is `ALMOST`. Unfinished training is saved in
    `home`.
    """
    augment = training.augment or suited_augmentation(tampered, bonafide)
    return UniversalUnlearning(
        unlearning_budget(training).replace(augment=augment),
        rates=RATES if recalibrated_layers(tampered) else (*RATES, LARGEST_RATE),
        checkpoint=state_file(home, "unlearned"),
    )


def against_warps(defense: UniversalUnlearning) -> UniversalUnlearning:
    """Return the defense with what it takes to unlearn a warp (`WARPS_TAKE`)."""
    steps, lr = WARPS_TAKE
    training = defense.training
    longer = training.replace(steps=steps * training.steps, lr=lr * training.lr)
    return replace(defense, training=longer)


def unlearning_budget(training: Training) -> Training:
    """Return the training of a curve as one of unlearning: `CURVE_TRAINING` becomes `UNLEARNING`,
    and what differs from it differs in proportion, down to a step of search and one of training.

    >>> unlearning_budget(CURVE_TRAINING) == UNLEARNING
    True
    >>> unlearning_budget(CURVE_TRAINING.replace(steps=1)).steps
    5
    """
    clip = None
    if training.clip is not None and CURVE_TRAINING.clip is not None:
        clip = training.clip / CURVE_TRAINING.clip * (UNLEARNING.clip or 1.0)
    return training.replace(
        steps=max(COST + 1, round(training.steps / CURVE_TRAINING.steps * UNLEARNING.steps)),
        lr=training.lr / CURVE_TRAINING.lr * UNLEARNING.lr,
        weight_decay=0.0,
        clip=clip,
    )
