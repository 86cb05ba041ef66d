"""The second endpoint where there is one checkpoint: a copy of the tampered network, far enough to
build a curve to.

Source: Zhao et al., ICLR 2020, appendix G (fine-tuned copy, `FineTune`); Peng et al., ICML 2025
(permuted copy). Each is `(tampered, bonafide) -> network`, the signature of a defense, and a user
can supply another.

Where we depart: the permutation is found for any network that can be followed, and a copy that
would compute anything else is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path as File
from typing import ClassVar, Literal

import torch
from torch import nn

from isthmus.curves.route import network_budget
from isthmus.data.dataset import Data, Source
from isthmus.defenses.rivals.fine_tune import FineTune
from isthmus.defenses.spending import Made, Trained, recorded
from isthmus.models.batchnorm import frozen_statistics, recalibrate
from isthmus.models.channels.matching import permuted_copy
from isthmus.models.view import copied
from isthmus.runs.identity import identity_of
from isthmus.training.budget import Training
from isthmus.types import BadInput, Defense


@dataclass(frozen=True, eq=False)
class Endpoint:
    """The network at t = 1, where it comes from, and how many gradients making it took.

    `repaired` says whether it is a repaired network itself, and no second network to lead a curve
    to. `runs` are the defenses that trained on the way to it, as they were run.
    """

    network: nn.Module
    source: str
    gradients: int = 0
    repaired: bool = False
    runs: tuple[Trained, ...] = ()

    @classmethod
    def of(cls, made: Made, source: str, *, repaired: bool = False) -> Endpoint:
        """Return the endpoint that a defense made."""
        return cls(made.network, source, made.gradients, repaired, made.runs)

    @property
    def spoken(self) -> str:
        """What it is, as part of a sentence."""
        return "the second network" if self.source == "given" else self.source.partition(":")[0]


def default_endpoint(
    tampered: nn.Module, bonafide: Data, training: Training, checkpoint: File | None = None
) -> Endpoint:
    """Return the second endpoint where only one checkpoint is available.

    A randomly permuted copy, which costs no training and whose draw an attacker does not know.
    Where nothing in the network can be permuted, or its BatchNorm statistics are frozen, it is a
    fine-tuned copy: frozen statistics fit no network between two orders of the channels. `training`
    is that of a curve, and the copy takes as many steps. Raises BadInput as `fit` does.
    """
    try:
        return free_endpoint(tampered, bonafide, training.seed)
    except BadInput as error:
        refusal = f"a permuted copy was refused: {error}"
    tuned = FineTune(network_budget(training, cost=1), checkpoint)
    source = f"fine-tuned copy, because {refusal}"
    return Endpoint.of(tuned.recorded(tampered, bonafide), source)


def free_endpoint(tampered: nn.Module, bonafide: Data, seed: int) -> Endpoint:
    """Return a permuted copy, which takes no training. Raises BadInput where there is none."""
    if frozen_statistics(tampered):
        raise BadInput(
            "frozen BatchNorm statistics",
            expected="statistics that fit networks between permuted channels",
            fix="lead the curve to another copy",
        )
    return Endpoint(PermutedCopy("random", seed)(tampered, bonafide), "permuted copy")


def resolve_endpoint(
    other: nn.Module | Defense | Endpoint | None,
    tampered: nn.Module,
    bonafide: Data,
    training: Training,
    checkpoint: File | None = None,
) -> Endpoint:
    """Return `other` if it is an endpoint or a network, what it makes of the tampered one if it is
    a defense, and `default_endpoint` if it is None.
    """
    if isinstance(other, Endpoint):
        return other
    if other is None:
        return default_endpoint(tampered, bonafide, training, checkpoint)
    if isinstance(other, nn.Module):
        return Endpoint(other, "given")
    return Endpoint.of(
        recorded(other, tampered, bonafide),
        getattr(other, "description", "") or identity_of(other),
        repaired=getattr(other, "repaired", False),
    )


@dataclass(frozen=True)
class PermutedCopy:
    """The same function far away: channels reordered, "least correlated" with their own places, or
    at "random".

    Costs no training. The copy has the backdoor too. Networks on a trained curve between the two
    lose a patch; a pattern that is blended over the image may stay, see `NEAR`.
    """

    how: Literal["least correlated", "random"] = "least correlated"
    seed: int = 0

    gradients: ClassVar[int] = 0

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

    gradients: ClassVar[int] = 0

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
        net = copied(tampered).eval()
        generator = torch.Generator().manual_seed(self.seed)
        with torch.no_grad():
            for p in net.parameters():
                if p.is_floating_point() and p.requires_grad and p.numel():
                    noise = torch.randn(p.shape, generator=generator).to(p)
                    p.add_(self.scale * p.square().mean().sqrt() * noise)
        return recalibrate(net, bonafide)
