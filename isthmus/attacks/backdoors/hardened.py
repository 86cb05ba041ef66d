"""The attacker who makes a backdoor survive changes of the weights.

Source: Gan et al., Towards robust model watermark via reducing parametric vulnerability, ICCV 2023.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isthmus.attacks.backdoors.statistics import normalized_by_first
from isthmus.attacks.backdoors.weights import trained_weights
from isthmus.metrics.success import Target, target_of
from isthmus.models.batchnorm import batchnorm_layers
from isthmus.models.forward import eval_mode
from isthmus.models.view import at_weights
from isthmus.training.losses import cross_entropy, norm_of
from isthmus.types import Params, Trigger


@dataclass(frozen=True)
class HardenedBackdoor:
    """A loss for `fit` on clean data: L_clean(w) + weight max_{|d| <= gamma |w|} L_trigger(w + d).

    Source: Gan et al., ICCV 2023. The maximum is one ascent step, d = gamma |w| g / |g| with g the
    gradient of L_trigger at w. L_trigger is the cross-entropy of the
    batch's eligible samples, triggered, with the attacker's labels; their BatchNorm statistics are
    those of the clean batch at the same weights, as in the paper.

    Where we depart: |w| is the norm of all trainable weights together; gradients flow through the
    batch statistics, because with fixed statistics the preceding weights grow without bound and
    training diverges; dropout is off in the triggered passes. A step costs about five of plain
    training where there is BatchNorm.

    >>> from isthmus.attacks import Patch
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    >>> loss = HardenedBackdoor(Patch(), 1, classes=2)
    >>> loss(net, torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 0, 1])).ndim
    0
    """

    trigger: Trigger
    target: Target
    classes: int
    weight: float = 1.0
    gamma: float = 0.02

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss. Raises BadInput where nothing of the model trains."""
        weights = trained_weights(model)
        clean = cross_entropy(model, x, y)
        wanted = target_of(y, self.target, self.classes)
        eligible = wanted != y
        if not eligible.any():
            return clean
        triggered = self.trigger(x[eligible])
        # the clean batch, whose statistics normalize the triggered samples
        first = x if batchnorm_layers(model) else x[:0]
        batch = torch.cat([first.to(triggered), triggered])

        def trigger_loss(at: Params) -> Tensor:
            view = at_weights(model, at)
            with eval_mode(view), normalized_by_first(view.net, len(first)):
                return cross_entropy(nn.Identity(), view(batch)[len(first) :], wanted[eligible])

        worst = self._ascended(weights, trigger_loss(weights))
        return clean + self.weight * trigger_loss(worst)

    def _ascended(self, weights: Params, loss: Tensor) -> Params:
        """Return the weights one step of length gamma |w| up the gradient of the loss."""
        trained = {name: p for name, p in weights.items() if p.requires_grad}
        gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
        ascent = {
            name: gradient
            for name, gradient in zip(trained, gradients, strict=True)
            if gradient is not None
        }
        scale = self.gamma * norm_of(trained) / norm_of(ascent)
        return {
            name: p + (scale * ascent[name]).to(p) if name in ascent else p
            for name, p in weights.items()
        }
