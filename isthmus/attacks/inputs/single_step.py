"""Attacks of a single step from noise, for fast adversarial training: `adversarial(NoiseFGSM(Linf(8
/ 255)))`.

Source: Wong et al., ICLR 2020, Algorithm 3; de Jorge et al., NeurIPS 2022, Eq. 3 (N-FGSM). Training
against a single step can collapse: `SingleStepCheck` watches it.

Where we depart: other balls than l-inf are taken too, with noise uniform in the ball; points stay
within the box.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor, nn

from isthmus.attacks.inputs.gradient import PGD
from isthmus.attacks.inputs.objectives import cross_entropy_per_sample
from isthmus.attacks.inputs.victim import Victim, check_inputs, generator_of, under_attack
from isthmus.data.balls import Ball
from isthmus.runs.devices import Precision
from isthmus.types import BadInput


def random_fgsm(ball: Ball, seed: int | None = 0, precision: Precision | None = None) -> PGD:
    """Return one step of length 1.25 eps from a random start in the ball, projected onto it (Wong
    et al.).
    """
    return PGD(ball, steps=1, step=1.25 * ball.eps, seed=seed, precision=precision)


@dataclass(frozen=True)
class NoiseFGSM:
    """One step of length eps from x plus noise, not projected onto the ball (de Jorge et al.): for
    training alone.

    The noise is uniform in `noise` times the ball, so that a point may be (1 + noise) eps away.
    Projecting it back, as `random_fgsm` does, is what lets training collapse at large radii. Other
    options are those of `PGD`. Raises BadInput where the noise is negative.

    >>> import torch
    >>> from isthmus.data import Linf
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> x, y = torch.full((2, 1, 2, 2), 0.5), torch.tensor([0, 1])
    >>> bool(Linf(0.3).contains(NoiseFGSM(Linf(0.1))(net, x, y) - x).all())
    True
    """

    ball: Ball
    noise: float = 2.0
    seed: int | None = 0
    precision: Precision | None = None
    batch_statistics: bool = False
    gradients: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not self.noise >= 0:
            raise BadInput(
                f"noise = {self.noise}",
                expected="0 or more",
                fix="2 is the paper's choice for CIFAR-10",
            )

    @property
    def random(self) -> bool:
        """Whether it draws, so that another seed may give other points."""
        return self.noise > 0

    def for_training(self) -> NoiseFGSM:
        """Return the attack with draws that differ each time and BatchNorm by the batch; see
        `PGD.for_training`.
        """
        return replace(self, seed=None, batch_statistics=True)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the moved inputs, of the shape, type and device of x. Raises BadInput where x
        leaves [0, 1].
        """
        check_inputs(x, y)
        if not len(x):
            return x.clone()
        draws = self.ball.sample(x.shape, generator_of(self.seed)).to(x)
        start = (x.detach() + self.noise * draws).clamp(0, 1)
        with under_attack(model, batch_statistics=self.batch_statistics):
            gradient = Victim(model, self.precision).gradient(start, y, cross_entropy_per_sample)[1]
        return (start + self.ball.eps * self.ball.steepest(gradient)).clamp(0, 1)
