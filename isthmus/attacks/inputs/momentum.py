"""MI-FGSM: signed gradient steps along a momentum, which carries across small bumps of the loss.

Source: Dong et al., Boosting adversarial attacks with momentum, CVPR 2018, Algorithm 1 and Eq. 6.

Where we depart: the step is the steepest of the ball, which is the sign for l-inf and Eq. 9 for l2,
and takes an l1 ball as well; points are projected onto ball and box; the worst point seen is
returned instead of the last one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from isthmus.attacks.inputs.gradient import PGD, Climb, stepped
from isthmus.attacks.inputs.search import per_sample
from isthmus.attacks.inputs.victim import Victim
from isthmus.types import BadInput


@dataclass(frozen=True)
class MIFGSM(PGD):
    """Momentum iterative FGSM within a ball: `steps` steps of `step`, by default eps / steps, from
    the input itself.

    A step goes along `decay` times the last momentum plus the gradient over its mean absolute
    value. Other options are those of `Ascent`. Raises BadInput where decay is below 0, and as `PGD`
    does.

    >>> import torch
    >>> from isthmus.data import Linf
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    >>> x, y = torch.full((2, 1, 2, 2), 0.5), torch.tensor([0, 1])
    >>> bool(Linf(0.1).contains(MIFGSM(Linf(0.1), steps=3)(net, x, y) - x).all())
    True
    """

    decay: float = 1.0
    random_start: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.decay >= 0:
            raise BadInput(
                f"decay = {self.decay}",
                expected="0 or more",
                fix="pass decay=1, the paper's choice",
            )

    def _step(self, victim: Victim, at: Climb) -> Tensor:
        size = at.gradient.flatten(1).abs().mean(1).clamp_min(1e-30)
        at.memory = at.gradient / per_sample(size, at.x) + (
            0 if at.memory is None else self.decay * at.memory
        )
        length = self.ball.eps / self.steps if self.step is None else self.step
        return stepped(self.ball, at.x, at.points, at.memory, length)
