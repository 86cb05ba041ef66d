"""The second endpoint where there is one checkpoint: a copy of the tampered network, far enough to build a curve to.

Source: Zhao et al., ICLR 2020, appendix G (fine-tuned copy, `defenses.FineTune`); Peng et al., ICML 2025 (permuted
copy); specification, section 12. Each is `(tampered, bonafide) -> network`, the signature of a defense, and so is
whatever a user supplies instead.

Where we depart: the permutation is found for any network that can be followed, and a copy that would compute anything
else is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from isthmus.align import permuted_copy
from isthmus.batchnorm import recalibrate
from isthmus.data import Source
from isthmus.types import BadInput
from isthmus.view import copied


@dataclass(frozen=True)
class PermutedCopy:
    """The same function far away: channels reordered, "least correlated" with their own places, or at "random".

    Costs no training. The copy has the backdoor too; what lies between the two has not.
    """

    how: Literal["least correlated", "random"] = "least correlated"
    seed: int = 0

    def __call__(self, tampered: nn.Module, bonafide: Source) -> nn.Module:
        """Return the copy, in eval mode. Raises BadInput where nothing in the network can be permuted."""
        return permuted_copy(tampered, bonafide, how=self.how, seed=self.seed).model


@dataclass(frozen=True)
class PerturbedCopy:
    """The tampered network plus Gaussian noise, of `scale` times the root mean square of each parameter."""

    scale: float = 0.5
    seed: int = 0

    def __call__(self, tampered: nn.Module, bonafide: Source) -> nn.Module:
        """Return the copy, in eval mode, BatchNorm recalibrated. Raises BadInput where the scale is not positive."""
        if not self.scale > 0:
            raise BadInput(f"scale {self.scale}", expected="a scale above 0", fix="pass 0.5, or another endpoint")
        net, generator = copied(tampered).eval(), torch.Generator().manual_seed(self.seed)
        with torch.no_grad():
            for p in net.parameters():
                if p.is_floating_point() and p.requires_grad and p.numel():
                    noise = torch.randn(p.shape, generator=generator).to(p)
                    p.add_(self.scale * p.square().mean().sqrt() * noise)
        return recalibrate(net, bonafide)
