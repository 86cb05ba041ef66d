"""FT-SAM: fine-tune for weights around which the loss is low too.

Source: Zhu et al., Enhancing Fine-tuning based Backdoor Defense with Sharpness-aware Minimization,
ICCV 2023, section 4: adaptive sharpness-aware minimization (Kwon et al., ICML 2021) on the bonafide
samples, rho = 2 on CIFAR-10. Neurons that carry the backdoor have large weights, and the adaptive
ball perturbs large weights more.

Where we depart from the paper's code: the budget is that of every other defense (the paper trains
for 100 epochs), the adaptive ball has no offset for weights that are zero, and BatchNorm is
recalibrated at the end."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from isthmus.data.dataset import Source
from isthmus.models.batchnorm import recalibrate
from isthmus.models.view import copied
from isthmus.training.budget import Training, steps_for
from isthmus.training.loop import fit
from isthmus.training.losses import cross_entropy, sharpness_aware


@dataclass(frozen=True)
class FTSAM:
    """Sharpness-aware fine-tuning. `rho` is the radius of the ball, measured relative to each
    weight where `adaptive`.

    Budget: a step costs two gradient evaluations (at the weights, and at the perturbed weights).
    """

    training: Training
    rho: float = 2.0
    adaptive: bool = True

    def __call__(self, tampered: nn.Module, bonafide: Source) -> nn.Module:
        """Return the fine-tuned copy. Raises BadInput where rho is not positive or the budget is
        below one step.
        """
        net, loss = (
            copied(tampered),
            sharpness_aware(cross_entropy, self.rho, adaptive=self.adaptive),
        )
        options = self.training.copy()
        options["steps"], options["progress"] = steps_for(self.training, cost=2), "fine-tuning"
        fit(net, bonafide, loss, **options)
        return recalibrate(net, bonafide)
