"""An unlearned copy that is moved along a curve as well: two repairs in one network.

Unlearning loses patterns that universal perturbations resemble, such as those blended over the
image. A curve to a permuted copy loses patches and waves within its first tenth, also where no
perturbation shows it. Where universal perturbations alone do not tell beyond doubt which class a
trigger leads to, the network moves by both. Networks without BatchNorm do not: on them a curve
loses the backdoor later, and unlearning is rarely short of it.

Source: ours, measured in docs/experiments.md (two moves in one); networks that differ from one
network are added by their differences as in Ilharco et al., Editing models with task arithmetic,
ICLR 2023, section 2.
"""

from __future__ import annotations

import torch
from torch import nn

from isthmus.defenses.curve_repair.endpoints import Endpoint
from isthmus.defenses.curve_repair.repaired import Repair
from isthmus.metrics.names import DIVERGENCE
from isthmus.metrics.path import Path
from isthmus.models.batchnorm import recalibrate
from isthmus.models.shift import Shift
from isthmus.models.view import copied

OF_SUSPICION = 1 / 4
"""How much the point on the curve may change answers, as a part of what unlearning alone changes
them, where a class is suspect with a doubt: the curve only serves if the suspicion is wrong
(docs/experiments.md, where it was chosen)."""


def farthest_changing(path: Path, change: float, *, within: float = 1.0) -> float:
    """Return the farthest inner t of a path, `within` at most, where answers differ by that change
    or less, in nats; the first one where they differ by more everywhere.
    """
    inner = [(t, d) for t, d in zip(path.t, path[DIVERGENCE], strict=True) if 0 < t < 1]
    return max([inner[0][0], *(t for t, d in inner if t <= within and d <= change)])


def moved_as_well(unlearned: Endpoint, near: Repair, tampered: nn.Module, *, t: float) -> Endpoint:
    """Return the unlearned copy, moved by what the point t on the curve near the network differs
    from it.

    Its BatchNorm statistics are those of the samples that trained, moved by what recalibration
    changes of the tampered network's: those of one move alone cost points of accuracy. What it took
    to make the copy is counted with the copy itself.
    """
    network = summed(tampered, near.networks.at(t), unlearned.network)
    recalibrate(network, near.fitted)
    received = near.networks.at(0.0, ends="recalibrated")
    Shift.between(tampered, received).apply(network)
    source = (
        f"copy moved twice: to an {unlearned.source}, and by what t = {t:.3g} of the curve to "
        f"{near.endpoint.spoken} changes"
    )
    return Endpoint(network, source, repaired=True)


@torch.no_grad()
def summed(start: nn.Module, first: nn.Module, second: nn.Module) -> nn.Module:
    """Return a copy of the first network, moved by what leads from `start` to the second one, in
    fp32 at least; its buffers are those of the first.
    """
    net = copied(first).eval()
    before, after = (dict(side.named_parameters()) for side in (start, second))
    for name, weights in net.named_parameters():
        if weights.is_floating_point():
            wide = torch.promote_types(weights.dtype, torch.float32)
            old, new = (side[name].to(weights.device, wide) for side in (before, after))
            weights.copy_(weights.to(wide) + (new - old))
    return net
