"""What a trigger does to a network: attack success, and the recovery accuracy beside it.

Source: Gu et al., BadNets, 2017; Zhao et al., ICLR 2020, section 3.2 (all-targets). Recovery
accuracy is the robust accuracy of BackdoorBench (Wu et al., NeurIPS 2022). Where we depart: samples
whose true class already is the target are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from isthmus.data.dataset import Data, Source
from isthmus.metrics.accuracy import accuracy_on
from isthmus.metrics.passes import Passes
from isthmus.metrics.question import Question
from isthmus.metrics.values import Rate
from isthmus.runs.devices import Precision
from isthmus.runs.wording import percent
from isthmus.types import BadInput, Trigger

Target = int | Literal["all"]
"""The class that triggered inputs are sent to, or "all": each class i to i + 1, the last one to 0.
"""


def target_of(y: Tensor, target: Target, classes: int) -> Tensor:
    """Return the label that the attacker wants for inputs of the true classes y, shape (n,).

    Raises BadInput where the target is no class.

    >>> y = torch.tensor([0, 9])
    >>> target_of(y, "all", 10).tolist(), target_of(y, 1, 10).tolist()
    ([1, 0], [1, 1])
    """
    if target == "all":
        return (y + 1) % classes
    if not isinstance(target, int) or not 0 <= target < classes:
        raise BadInput(
            f"target {target!r}",
            expected=f"a class 0..{classes - 1} or 'all'",
            fix="pass the attacker's target by its number, or 'all'",
        )
    return torch.full_like(y, target)


def eligible(data: Data, target: Target) -> Tensor:
    """Return the indices of the samples whose true class is not the target.

    An attack is judged on these alone.
    """
    return (target_of(data.y, target, data.num_classes) != data.y).nonzero().squeeze(1)


def triggered(data: Data, trigger: Trigger, target: Target) -> Data:
    """Return the eligible samples with the trigger on and the target as label: accuracy on them is
    attack success.

    Raises BadInput where no sample is eligible.
    """
    index = eligible(data, target)
    if not len(index):
        raise BadInput(
            "only samples of the target class",
            expected="some of another class",
            fix="add samples of other classes, or pass another target",
        )
    clean = data[index]
    return clean.changed(trigger, target_of(clean.y, target, data.num_classes))


@dataclass(frozen=True, eq=False)
class AttackSuccess(Question[Rate]):
    """Share of triggered samples, their true class not the target, that are predicted as the
    target, as a Rate.

    Source: Gu et al., BadNets, 2017. With target "all" no sample is left out.
    """

    trigger: Trigger
    target: Target
    precision: Precision = "fp32"

    def prepared(self, data: Data) -> Data:
        return triggered(data, self.trigger, self.target)

    def answer(self, passes: Passes) -> Rate:
        return accuracy_on(self.samples, passes, self.precision)


@dataclass(frozen=True, eq=False)
class RecoveryAccuracy(Question[Rate]):
    """Share of triggered samples, their true class not the target, that are predicted as their true
    class, as a Rate.

    The complement of attack success holds wrong answers too: a repair that only breaks the trigger
    has a low attack success and a low recovery accuracy. Source: Wu et al., BackdoorBench, NeurIPS
    2022, section 4.
    """

    trigger: Trigger
    target: Target
    precision: Precision = "fp32"

    @classmethod
    def beside(cls, success: AttackSuccess) -> RecoveryAccuracy:
        """Return the metric about the very images of an attack success, which share its passes."""
        metric = cls(success.data, success.trigger, success.target, success.precision)
        same_images = Data(success.samples.x, metric.samples.y, metric.samples.classes)
        object.__setattr__(metric, "samples", same_images)
        return metric

    def prepared(self, data: Data) -> Data:
        images = triggered(data, self.trigger, self.target).x
        return Data(images, data.y[eligible(data, self.target)], data.classes)

    def answer(self, passes: Passes) -> Rate:
        return accuracy_on(self.samples, passes, self.precision)


def planted(
    network: nn.Module, data: Source, trigger: Trigger, target: Target, *, least: float = 0.9
) -> Rate:
    """Return the attack success on evaluation data; refuse an attack that has not worked, before a
    repair starts.

    The attack success on a network that was never poisoned is the floor of the trigger. Raises
    BadInput where the attack succeeds on a smaller share than `least`.
    """
    success = AttackSuccess(data, trigger, target)(network)
    if success < least:
        raise BadInput(
            f"an attack that succeeds on {success.hits} of {success.n} samples",
            expected=f"{percent(least)} or more",
            fix="train longer, raise the poison rate, or make the trigger stronger",
        )
    return success
