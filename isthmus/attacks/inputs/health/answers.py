"""Are the network's outputs what an attack takes them for: logits, of enough classes, that are the
same at every pass and whose differences the number type resolves?

Source: Croce and Hein, AutoAttack's checks; an issue of AdverTorch on logits with a constant added.
"""

from __future__ import annotations

import torch

from isthmus.attacks.inputs.health.indicator import Run


def random_answers(run: Run) -> float | None:
    """Return 1 where the network's answers are random, else 0."""
    return float(run.draws > 1)


def open_answers(run: Run) -> float | None:
    """Return the share of samples whose answer the draws leave open; None without draws."""
    if run.draws == 1:
        return None
    return float(run.undecided.double().mean())


def probabilities(run: Run) -> float | None:
    """Return the share of samples whose outputs are in [0, 1] and sum to 1."""
    outputs = run.clean_logits.double()
    inside = (outputs >= 0).all(1) & (outputs <= 1).all(1)
    return float((inside & ((outputs.sum(1) - 1).abs() < 1e-4)).double().mean())


def lost_digits(run: Run) -> float | None:
    """Return the median over samples of the rounding error of a logit as a share of the spread of
    the logits: 1 where a constant added to all of them leaves nothing.
    """
    values = run.clean_logits
    error = values.abs().amax(1) * torch.finfo(values.dtype).eps
    return float((error / values.std(1).clamp_min(1e-30)).clamp_max(1.0).median())


def classes(run: Run) -> float | None:
    """Return the number of classes."""
    return float(run.clean_logits.shape[1])
