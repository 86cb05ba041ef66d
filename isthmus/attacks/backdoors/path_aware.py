"""The attacker who trains two networks together with the path between them.

Source: Zhao et al., ICLR 2020, appendix J.
"""

from __future__ import annotations

import torch
from scipy.stats import binom
from torch import Tensor, nn

from isthmus.curves.curve import Bezier
from isthmus.curves.expectation import expected_over_t
from isthmus.data.dataset import Source, as_data
from isthmus.models.batchnorm import recalibrate
from isthmus.training.budget import Training
from isthmus.training.loop import fit
from isthmus.training.losses import cross_entropy
from isthmus.types import BadInput, Loss


class _FreePath(Bezier):
    """A Bezier curve whose control points are all trained: the bends; the fixed ends have no share
    in it.
    """

    def coefficients(self, t: float | Tensor) -> Tensor:
        bends = len(self.bends)
        bernstein = torch.from_numpy(binom.pmf(range(bends), bends - 1, float(t)))
        return torch.cat([torch.zeros(1), bernstein, torch.zeros(1)])


def path_aware(
    start: nn.Module,
    end: nn.Module,
    poisoned: Source,
    training: Training,
    *,
    bends: int = 1,
    loss: Loss = cross_entropy,
) -> tuple[nn.Module, nn.Module]:
    """Return two networks that were trained together with the whole path between them on the
    poisoned set.

    Source: Zhao et al., ICLR 2020, appendix J: both ends and the bend are trained on E_t of the
    loss, and the ends are released. Where we depart: `start` and `end` are where training begins,
    so they may be fresh or trained networks; the weight decay of `training` acts on the point of
    the path, as it does for a defender. BatchNorm is that of the poisoned set. Neither network
    given is changed. Raises BadInput as `Curve` and `fit` do, or where bends < 0.
    """
    if bends < 0:
        raise BadInput(
            f"bends = {bends}", expected="0 or more interior control points", fix="pass bends=1"
        )
    data = as_data(poisoned)
    path = _FreePath(start, end, bends=bends + 2)
    with torch.no_grad():
        ends = path.ends.to(path.bends.dtype)
        shares = torch.linspace(0, 1, bends + 2).to(ends)[:, None]
        path.bends.copy_(torch.lerp(ends[:1], ends[1:], shares))
    fit(
        path,
        data,
        expected_over_t(loss, training.weight_decay),
        training=training.replace(weight_decay=0.0),
        progress="training two networks and their path",
    )
    first, second = (recalibrate(path.export(t), data) for t in (0.0, 1.0))
    return first, second
