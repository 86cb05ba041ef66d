"""Catastrophic overfitting: has training against single steps left a network that only single steps
fail to fool?

Source: Wong et al., ICLR 2020, section 5.4 (compare with PGD on training samples, stop);
Andriushchenko and Flammarion, NeurIPS 2020. Within a few steps such a network learns to mislead the
single step by its own curvature, and loses its robustness.

Where we depart: the attacked samples are held out from training and not of the batch; the verdict
compares intervals, so that a few samples decide nothing; of a curve, the network at its middle is
checked; BatchNorm is recalibrated on the samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

from torch import nn

from isthmus.attacks.inputs.gradient import PGD, fgsm
from isthmus.curves.curve import Curve
from isthmus.data.balls import Ball
from isthmus.data.dataset import Data, Source, as_data
from isthmus.metrics.robustness import RobustAccuracy
from isthmus.metrics.values import Rate
from isthmus.models.batchnorm import recalibrate
from isthmus.models.view import copied
from isthmus.runs.wording import percent
from isthmus.types import BadInput


def check_single_step(
    model: nn.Module, samples: Source, ball: Ball, *, steps: int = 10, share: float = 0.5
) -> tuple[Rate, Rate]:
    """Return the accuracy under one step (FGSM) and under PGD; refuse a network that has overfitted
    to single steps.

    Both within the ball, each with its 95 % interval. Raises BadInput where all of PGD's is below
    `share` times all of FGSM's.

    >>> import torch
    >>> from isthmus.data import Linf
    >>> samples = Data(torch.rand(8, 1, 2, 2), torch.arange(8) % 2, classes=2)
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> single, many = check_single_step(net, samples, Linf(0.1))
    >>> many <= single
    True
    """
    single, many = (
        RobustAccuracy(samples, attack)(model) for attack in (fgsm(ball), PGD(ball, steps))
    )
    if many.high < share * single.low:
        raise BadInput(
            f"accuracies of {percent(single)} against one step and {percent(many)} against "
            f"{steps} ({many.n} samples): catastrophic overfitting",
            expected=f"at least {share:g} of the former",
            fix="train with PGD of a few steps (adversarial), with a smaller eps or lr, or for "
            "fewer steps",
        )
    return single, many


@dataclass(frozen=True, eq=False)
class SingleStepCheck:
    """Runs `check_single_step` after every `every` training steps, as `after_step` of `fit`:
    training that has collapsed stops.

    `balls` are checked one by one. A check costs about steps + 3 passes and input gradients over
    the samples. Raises BadInput where `every` is below 1, and, when called, where the network has
    collapsed.

    >>> import torch
    >>> from isthmus import fit
    >>> from isthmus.attacks import NoiseFGSM
    >>> from isthmus.data import Linf
    >>> from isthmus.training import adversarial
    >>> data = Data(torch.rand(16, 1, 2, 2), torch.arange(16) % 2, classes=2)
    >>> ball = Linf(0.02)
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> check = SingleStepCheck(data[:8], [ball], every=10)
    >>> fit(net, data[8:], adversarial(NoiseFGSM(ball)), steps=20, lr=0.1, after_step=check).steps
    20
    """

    samples: Data
    balls: Sequence[Ball]
    every: int = 100
    steps: int = 10
    share: float = 0.5
    _calls: Iterator[int] = field(default_factory=lambda: count(1), init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "samples", as_data(self.samples))
        if self.every < 1:
            raise BadInput(
                f"every = {self.every}",
                expected="1 training step or more",
                fix="pass every=100",
            )

    def __call__(self, module: nn.Module) -> None:
        """Count a step, and check the network, or the middle of a curve, when it is due."""
        if next(self._calls) % self.every:
            return
        net = module.export(0.5) if isinstance(module, Curve) else copied(module).eval()
        recalibrate(net, self.samples)
        for ball in self.balls:
            check_single_step(net, self.samples, ball, steps=self.steps, share=self.share)
