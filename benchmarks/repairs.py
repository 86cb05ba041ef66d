"""`repair` by its defaults against the reference recipe: a plain curve of 7,900 steps at rate 0.01.

Source: Zhao et al., ICLR 2020, whose code takes 100 epochs of 10,000 repeated images. Both get two
attacked networks of the demo and its 200 bonafide images. The reference takes its point by
hindsight, which no defender has: the most accurate of 21 that leaves at most 5 % of the attack, or
else the one that leaves least; ours by its rule. Floor: gradients, 2 x 200 against 7,900.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from isthmus import Accuracy, AttackSuccess, Data, connect, evaluate_path, load_data, repair, split
from isthmus.cli.story import TARGET, TRIGGER, attack
from isthmus.cli.words import parse_trigger
from isthmus.metrics import Path
from isthmus.metrics import measure as measured

BONAFIDE, STEPS, LEFT = 200, 7900, 0.05
ACCURACY, SUCCESS = "accuracy", "attack success"


def _by_hindsight(path: Path) -> tuple[float, float]:
    """Return accuracy and success of the reference's best inner point."""
    inner = [(a, s) for t, a, s in zip(path.t, path[ACCURACY], path[SUCCESS], strict=True)][1:-1]
    good = [found for found in inner if found[1] <= LEFT]
    return max(good) if good else min(inner, key=lambda found: found[1])


def _reference(
    ends: tuple[nn.Module, nn.Module], bonafide: Data, judges: dict[str, Any]
) -> tuple[float, tuple[float, float]]:
    began = time.perf_counter()
    curve, _ = connect(*ends, bonafide, steps=STEPS, lr=0.01, rho=0.0, low=0.0, high=1.0)
    seconds = time.perf_counter() - began
    return seconds, _by_hindsight(evaluate_path(curve, judges, 21, recalibrate_on=bonafide))


def _row(seed: int) -> dict[str, Any]:
    """Return seconds and what they bought, for a pair of attacked networks."""
    digits, rest = load_data("digits:train"), load_data("digits:test")
    drawn = torch.Generator().manual_seed(seed)
    bonafide, evaluation = split(rest, [BONAFIDE, len(rest) - BONAFIDE], drawn)
    ends = attack(digits, seed), attack(digits, seed + 100)
    trigger = parse_trigger(TRIGGER)
    judges = {ACCURACY: Accuracy(evaluation), SUCCESS: AttackSuccess(evaluation, trigger, TARGET)}
    began = time.perf_counter()
    ours = repair(ends[0], bonafide, ends[1], seed=seed)
    seconds = time.perf_counter() - began
    found = measured(ours.model, judges)
    reference, (accuracy, success) = _reference(ends, bonafide, judges)
    before = measured(ends[0], judges)
    return {
        "seed": seed,
        "before (accuracy / success, %)": _spoken(before[ACCURACY], before[SUCCESS]),
        "ours": _spoken(found[ACCURACY], found[SUCCESS]),
        "reference, by hindsight": _spoken(accuracy, success),
        "ours (s)": seconds,
        "reference (s)": reference,
        "reference / ours": reference / seconds,
    }


def _spoken(accuracy: float, success: float) -> str:
    return f"{100 * accuracy:.1f} / {100 * success:.1f}"


def measure(pairs: int) -> list[dict[str, Any]]:
    """Return a row per pair of networks."""
    return [_row(seed) for seed in range(pairs)]
