"""Averaged: the mean of the weights of what several defenses make of one network.

Source: model soups (Wortsman et al., ICML 2022), which average networks fine-tuned from one start;
as a repair it is ours. Repairs that start from one network and fail on different backdoors stay
close enough for their mean to be a network of low loss, and it has lost what either of them removes
(docs/experiments.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import nn
from torch.optim.swa_utils import AveragedModel

from isthmus.data.dataset import Source
from isthmus.defenses.spending import Made, gradients_of, recorded
from isthmus.models.batchnorm import recalibrate
from isthmus.models.view import copied
from isthmus.types import BadInput, Defense


@dataclass(frozen=True)
class Averaged:
    """Run every one of the defenses on the tampered network, and average the weights that come out.

    BatchNorm is recalibrated on the bonafide samples. Every defense must keep the network's
    parameters: one that adds or removes any is refused. `description` says in words what it is.
    """

    defenses: Sequence[Defense]
    description: str = field(default="", repr=False)

    repaired: ClassVar[bool] = True
    """What it makes is a repaired network by itself, and no second one to lead a curve to."""

    def __post_init__(self) -> None:
        if len(self.defenses) < 2:
            raise BadInput(
                f"{len(self.defenses)} defenses",
                expected="two or more to average",
                fix="pass two defenses, or use the one by itself",
            )

    @property
    def gradients(self) -> int:
        """How many gradient evaluations the defenses take together."""
        return sum(map(gradients_of, self.defenses))

    def __call__(self, tampered: nn.Module, bonafide: Source) -> nn.Module:
        """Return the network of mean weights, in eval mode. Raises BadInput as the defenses do, or
        where one of them returns other parameters than the network has.
        """
        return self.recorded(tampered, bonafide).network

    def recorded(self, tampered: nn.Module, bonafide: Source) -> Made:
        """Return the network of mean weights and what was run for it. Raises BadInput as a call."""
        parts: list[Made] = []
        mean = AveragedModel(copied(tampered), use_buffers=False)
        shapes = _shapes(tampered)
        for defense in self.defenses:
            made = recorded(defense, tampered, bonafide)
            if _shapes(made.network) != shapes:
                raise BadInput(
                    f"a network of other parameters from {type(defense).__name__}",
                    expected="the parameters of the tampered network",
                    fix="leave that defense out of the average",
                )
            mean.update_parameters(made.network)
            parts.append(replace(made, network=tampered))  # the networks are averaged, not held
        averaged: nn.Module = mean.module
        return Made(
            recalibrate(averaged, bonafide).eval(),
            sum(part.gradients for part in parts),
            tuple(run for part in parts for run in part.runs),
        )


def _shapes(net: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in net.named_parameters()}
