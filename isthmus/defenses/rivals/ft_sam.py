"""FT-SAM: fine-tune for weights around which the loss is low too.

Source: Zhu et al., Enhancing Fine-tuning based Backdoor Defense with Sharpness-aware Minimization,
ICCV 2023, section 4: adaptive sharpness-aware minimization (Kwon et al., ICML 2021) on the bonafide
samples, rho = 2 on CIFAR-10. Neurons that carry the backdoor have large weights, and the adaptive
ball perturbs large weights more.

Where we depart from the paper's code: the budget is that of every other defense (the paper trains
for 100 epochs), the adaptive ball has no offset for weights that are zero, and BatchNorm is
recalibrated at the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from isthmus.data.dataset import Source
from isthmus.defenses.spending import Trained
from isthmus.models.batchnorm import recalibrate
from isthmus.models.view import copied
from isthmus.training.loop import fit
from isthmus.training.losses import cross_entropy, sharpness_aware


@dataclass(frozen=True)
class FTSAM(Trained):
    """Sharpness-aware fine-tuning. `rho` is the radius of the ball, measured relative to each
    weight where `adaptive`.

    Budget: a step costs two gradient evaluations (at the weights, and at the perturbed weights).
    Unfinished training is saved to `checkpoint`, which is no part of the defense's identity.
    """

    rho: float = 2.0
    adaptive: bool = True
    checkpoint: str | Path | None = field(default=None, repr=False)

    def __call__(self, tampered: nn.Module, bonafide: Source) -> nn.Module:
        """Return the fine-tuned copy. Raises BadInput where rho is not positive or the budget is
        below one step.
        """
        net = copied(tampered)
        fit(
            net,
            bonafide,
            sharpness_aware(cross_entropy, self.rho, adaptive=self.adaptive),
            training=self.training.replace(steps=self.training.steps_costing(2)),
            progress="fine-tuning",
            checkpoint=self.checkpoint,
        )
        return recalibrate(net, bonafide)
