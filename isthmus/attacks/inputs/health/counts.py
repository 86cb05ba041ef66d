"""Does what the attack returns hold what it counted? Points that fooled, returned, and rounded.

Source: Pintor et al., NeurIPS 2022 (silent success); issues of RobustBench and AutoAttack on
accuracies in the log that differ from those on the images.
"""

from __future__ import annotations

import torch

from isthmus.attacks.inputs.health.indicator import Run
from isthmus.data.dataset import Data
from isthmus.metrics.passes import logits


def silent_success(run: Run) -> float | None:
    """Return the share of samples of which the attack met a point that fools and returned one that
    does not; None where it does not say what it met, or the network is random.
    """
    if not run.memory.fooled or run.draws > 1:
        return None
    met = torch.cat(run.memory.fooled)
    return float((met & run.right & run.standing & ~run.undecided).double().mean())


def weaker_than_none(run: Run) -> float | None:
    """Return the share of samples that are wrong before the attack and right after it."""
    return float((~run.right & run.standing & ~run.undecided).double().mean())


def outside(run: Run) -> float | None:
    """Return the largest norm of a perturbation over the radius; None without a ball."""
    ball = run.ball
    if ball is None or not len(run.clean) or ball.eps == 0:
        return None
    norm = ball.norm(run.moved.floats().double() - run.clean.floats().double())
    return float(norm.max() / ball.eps)


def lost_to_rounding(run: Run) -> float | None:
    """Return the share of fooled samples that are right again once their images are rounded to 8
    bits; None where none was fooled.
    """
    fooled = run.right & ~run.standing
    if not bool(fooled.any()) or run.draws > 1:
        return None
    images = (run.moved.floats()[fooled] * 255).round() / 255
    labels = run.moved.y[fooled]
    rounded = Data(images, labels, run.moved.classes)
    again = logits(run.model, rounded).argmax(1) == labels
    return float(again.double().mean())
