"""Do predictions change smoothly around an input?

Source: Pintor et al., NeurIPS 2022 (unstable predictions). Where we depart: their mean relative
change of the loss within 8/255 depends on the scale of the loss and of the ball. A smooth network
changes a tenth as much within a tenth of the radius; one that jumps changes more, or less where it
has not jumped yet, a random one as much. That ratio has no scale.
"""

from __future__ import annotations

import torch
from torch import Tensor

from isthmus.attacks.inputs.health.indicator import Run
from isthmus.attacks.inputs.health.probes.sample import some
from isthmus.attacks.inputs.objectives import margin
from isthmus.attacks.inputs.victim import Victim, under_attack
from isthmus.data.balls import Ball
from isthmus.models.forward import as_input, device_of

PAIRS, DRAWS = ((0.02, 0.2), (0.005, 0.05)), 3
"""Pairs of distances as shares of the radius, and how many points are drawn at each. A smooth
network looks rough over a large ball where it is curved, and over a tiny one where its logits are
rounded: of the pairs the one counts at which it looks smoother.
"""

_RESOLVED = 1e-5  # of the margin: a smaller change is rounding


@torch.no_grad()
def roughness(run: Run) -> float | None:
    """Return how many times more, or less, the margin changes near the input than a smooth function
    would: 1 where it is smooth, 10 where the change does not depend on the distance. Over samples
    that stand: they are what the number rests on.

    None where none stands, and where nothing changes, as on a network that rounds.
    """
    samples = some(run, run.standing)
    if samples is None or run.ball is None:
        return None
    device = device_of(run.model)
    x = as_input(samples.x, device, channels_last=False)
    y = samples.y.to(device)
    with under_attack(run.model):
        victim = Victim(run.model)
        size = float(margin(victim.logits(x), y).abs().mean())
        changes = [[_change(victim, x, y, run.ball, share) for share in pair] for pair in PAIRS]
    ratios = [
        _ratio(near / at_near, far / at_far)
        for (near, far), (at_near, at_far) in zip(changes, PAIRS, strict=True)
        if far > _RESOLVED * size
    ]
    return min(ratios, default=None)


def _ratio(near: float, far: float) -> float:
    """Return how many times the larger of two changes for a distance exceeds the other, at most
    10.
    """
    low, high = sorted((near, far))
    return high / low if 10 * low > high else 10.0


def _change(victim: Victim, x: Tensor, y: Tensor, ball: Ball, share: float) -> float:
    """Return the mean size of the margin's change at random points of the shrunken ball: the same
    directions for every share.
    """
    generator = torch.Generator().manual_seed(0)
    here = margin(victim.logits(x), y)
    total = 0.0
    for _ in range(DRAWS):
        draw = share * ball.sample(x.shape, generator).to(x)
        there = margin(victim.logits((x + draw).clamp(0, 1)), y)
        total += float((there - here).abs().mean())
    return total / DRAWS
