"""Points around and between the ends, no training: how much of the path's effect is mere
perturbation.

Source: Zhao et al., ICLR 2020, section 3.2. The straight average is our addition.

Where we depart from the paper's code: one draw from a seed of its own, and BatchNorm recalibrated
on the bonafide samples.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from isthmus.curves.curve import Bezier
from isthmus.data.dataset import Source
from isthmus.defenses.spending import gradients_of, made_by
from isthmus.models.batchnorm import recalibrate
from isthmus.types import BadInput, Defense


@dataclass(frozen=True)
class GaussianNoise:
    """Random points near the ends, no training: how much of the path's effect is mere perturbation.

    Variant "between": N((w1 + w2) / 2, |w1 - w2| / 2), elementwise. Variant "around": N(w1, |w1 -
    w2|). w1 is the tampered network, w2 the `other`: a network, or where there is one checkpoint
    only a defense that makes one, such as fine-tuning. Source: Zhao et al., ICLR 2020, section
    3.2.
    """

    other: nn.Module | Defense = field(repr=False)
    variant: str = "between"
    scale: float = 1.0
    seed: int = 0

    @property
    def gradients(self) -> int:
        """How many gradient evaluations making the other end takes."""
        return gradients_of(self.other)

    def __call__(self, tampered: nn.Module, bonafide: Source) -> nn.Module:
        """Return one draw. Raises BadInput for an unknown variant, or where the two ends differ in
        architecture.
        """
        if self.variant not in ("between", "around"):
            raise BadInput(
                f"noise variant {self.variant!r}",
                expected="between or around",
                fix='pass "between" or "around"',
            )
        middle = 0.5 if self.variant == "between" else 0.0
        other = made_by(self.other, tampered, bonafide)
        net = Bezier(tampered, other, bends=0).export(middle)
        generator = torch.Generator().manual_seed(self.seed)
        starts = dict(tampered.named_parameters())
        others = dict(other.named_parameters())
        with torch.no_grad():
            for name, p in net.named_parameters():
                if p.is_floating_point():
                    sigma = self.scale * (1 - middle) * (others[name] - starts[name]).abs()
                    p.add_(sigma * torch.randn(p.shape, generator=generator).to(p))
        return recalibrate(net, bonafide)


@dataclass(frozen=True)
class StraightAverage:
    """The midpoint of the straight segment to `other`: the average of the two networks, no
    training.

    `other` is a network or a defense that makes one.
    """

    other: nn.Module | Defense = field(repr=False)
    t: float = 0.5

    @property
    def gradients(self) -> int:
        """How many gradient evaluations making the other end takes."""
        return gradients_of(self.other)

    def __call__(self, tampered: nn.Module, bonafide: Source) -> nn.Module:
        """Return the network at t on the segment. Raises BadInput where the two ends differ in
        architecture.
        """
        other = made_by(self.other, tampered, bonafide)
        return recalibrate(Bezier(tampered, other, bends=0).export(self.t), bonafide)
