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

NEAR, FAR, DRAWS = 0.02, 0.2, 6
"""Two distances as shares of the radius, and how many points are drawn at each."""

_RESOLVED = 1e-5  # of the margin: a smaller change is rounding


@torch.no_grad()
def roughness(run: Run) -> float | None:
    """Return how many times more, or less, the margin changes near the input than a smooth function
    would: 1 where it is smooth, 10 where the change does not depend on the distance.

    None where nothing changes, as on a network that rounds.
    """
    samples = some(run, run.right)
    if samples is None or run.ball is None:
        return None
    device = device_of(run.model)
    x = as_input(samples.x, device, channels_last=False)
    y = samples.y.to(device)
    with under_attack(run.model):
        victim = Victim(run.model)
        near, far = (_change(victim, x, y, run.ball, share) for share in (NEAR, FAR))
        size = float(margin(victim.logits(x), y).abs().mean())
    if not far > _RESOLVED * size:
        return None
    if not near > 0:
        return FAR / NEAR
    ratio = near / far * FAR / NEAR
    return max(ratio, 1 / ratio)


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
