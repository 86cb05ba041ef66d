"""The second endpoint where there is one checkpoint: a copy of the tampered network, far enough to
build a curve to.

Source: Zhao et al., ICLR 2020, appendix G (fine-tuned copy, `FineTune`); Peng et al., ICML 2025
(permuted copy). Each is `(tampered, bonafide) -> network`, the signature of a defense, and a user
can supply another.

Where we depart: the permutation is found for any network that can be followed, and a copy that
would compute anything else is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, Unpack

import torch
from torch import nn

from isthmus.curves.connection import plain
from isthmus.data.dataset import Data, Source
from isthmus.defenses.rivals.fine_tune import FineTune
from isthmus.models.batchnorm import recalibrate
from isthmus.models.channels.matching import permuted_copy
from isthmus.models.view import copied
from isthmus.runs.identity import identity_of
from isthmus.training.budget import Training, budget_of
from isthmus.types import BadInput, Defense


class End(NamedTuple):
    """The network at t = 1, where it is from, and how many gradient evaluations making it took."""

    network: nn.Module
    source: str
    spent: int


def second_endpoint(tampered: nn.Module, bonafide: Data, **training: Unpack[Training]) -> End:
    """Return a second endpoint for want of a second checkpoint.

    A randomly permuted copy, which costs no training and whose draw an attacker does not know;
    where nothing in the network can be permuted, a fine-tuned copy (specification, section 12).
    Raises BadInput as `fit` does."""
    try:
        permuted = PermutedCopy("random", seed=training.get("seed", 0))
        return End(permuted(tampered, bonafide), "permuted copy", 0)
    except BadInput as error:
        tuned = FineTune(plain({"progress": "fine-tuning a copy", **training}, rho=0))
        source = f"fine-tuned copy, for a permuted one was refused: {error}"
        return End(tuned(tampered, bonafide), source, budget_of(tuned))


def made_end(
    other: nn.Module | Defense | None, tampered: nn.Module, bonafide: Data, training: Training
) -> End:
    """Return the network at t = 1: the given one, made as asked, or for want of both that of
    `second_endpoint`.
    """
    if isinstance(other, nn.Module):
        return End(other, "given", 0)
    if other is not None:
        return End(other(tampered, bonafide), identity_of(other), budget_of(other))
    return second_endpoint(tampered, bonafide, **training)


@dataclass(frozen=True)
class PermutedCopy:
    """The same function far away: channels reordered, "least correlated" with their own places, or
    at "random".

    Costs no training. The copy has the backdoor too; what lies between the two has not.
    """

    how: Literal["least correlated", "random"] = "least correlated"
    seed: int = 0

    def __call__(self, tampered: nn.Module, bonafide: Source) -> nn.Module:
        """Return the copy, in eval mode. Raises BadInput where nothing in the network can be
        permuted.
        """
        return permuted_copy(tampered, bonafide, how=self.how, seed=self.seed).model


@dataclass(frozen=True)
class PerturbedCopy:
    """The tampered network plus Gaussian noise, of `scale` times the root mean square of each
    parameter.
    """

    scale: float = 0.5
    seed: int = 0

    def __call__(self, tampered: nn.Module, bonafide: Source) -> nn.Module:
        """Return the copy, in eval mode, BatchNorm recalibrated. Raises BadInput where the scale is
        not positive.
        """
        if not self.scale > 0:
            raise BadInput(
                f"scale {self.scale}",
                expected="a scale above 0",
                fix="pass 0.5, or another endpoint",
            )
        net, generator = copied(tampered).eval(), torch.Generator().manual_seed(self.seed)
        with torch.no_grad():
            for p in net.parameters():
                if p.is_floating_point() and p.requires_grad and p.numel():
                    noise = torch.randn(p.shape, generator=generator).to(p)
                    p.add_(self.scale * p.square().mean().sqrt() * noise)
        return recalibrate(net, bonafide)
