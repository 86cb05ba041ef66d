"""ANP: find the channels that hurt when their scale and shift are perturbed adversarially, and
prune these.

Source: Wu and Wang, Adversarial Neuron Pruning Purifies Backdoored Deep Models, NeurIPS 2021,
section 4. Every channel of a BatchNorm gets a mask m in [0, 1]; minimized over the masks is alpha
L(m) + (1 - alpha) max L(m + d, 1 + e), where d and e, at most epsilon, act relative to scale and
shift. Channels with a small mask are pruned: their scale is zero, their shift stays, which is what
m = 0 stands for.

Where we depart from the paper's code: the threshold. The paper gives no rule, and published tables
choose it by the attack success rate on test data. Here the masks are learned on one
part of the bonafide samples, and the largest threshold is taken at which the accuracy on the other
part is within a tolerance of the best. Perturbations are projected to epsilon, and BatchNorm is
recalibrated after pruning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from isthmus.data.dataset import Data, Source, as_data
from isthmus.data.splits import HOLDOUT, hold_out
from isthmus.defenses.rivals.tuned import strongest_within
from isthmus.defenses.spending import Trained
from isthmus.metrics.accuracy import Accuracy
from isthmus.models.batchnorm import recalibrate
from isthmus.models.view import View, copied, places
from isthmus.training.loop import fit
from isthmus.training.losses import cross_entropy
from isthmus.types import BadInput

THRESHOLDS = tuple(i / 20 for i in range(19))
"""0 to 0.9 in steps of 0.05, as in the paper's code; 0 prunes nothing."""


@dataclass(frozen=True)
class ANP(Trained):
    """Adversarial neuron pruning. `training.lr` is the masks' (0.2 in the paper), without weight
    decay.

    `epsilon` and `alpha` are the paper's; `tolerance` is the accuracy that pruning may cost on the
    held-out samples. Budget: a step costs three gradient evaluations (the perturbation, the plain
    and the perturbed loss).
    """

    epsilon: float = 0.4
    alpha: float = 0.2
    tolerance: float = 0.04
    holdout: float = HOLDOUT

    def __call__(self, tampered: nn.Module, bonafide: Source) -> nn.Module:
        """Return the pruned copy. Raises BadInput where no BatchNorm has a scale, or the budget is
        below one step.
        """
        data = as_data(bonafide)
        fitted, held_out = hold_out(data, self.holdout, self.training.seed)
        masks = self.masks(tampered, fitted)
        accuracy = Accuracy(held_out)
        accuracies = [
            accuracy(recalibrate(_pruned(tampered, masks, threshold), fitted))
            for threshold in THRESHOLDS
        ]
        threshold = THRESHOLDS[strongest_within(accuracies, self.tolerance)]
        return recalibrate(_pruned(tampered, masks, threshold), data)

    def masks(self, tampered: nn.Module, bonafide: Data) -> dict[str, Tensor]:
        """Return the learned mask of each BatchNorm layer, (channels,) in [0, 1], by the layer's
        name.
        """
        masked = _Masked(tampered)
        steps = self.training.steps_costing(3)
        fit(
            masked,
            bonafide,
            _AdversarialLoss(self.epsilon, self.alpha),
            training=self.training.replace(steps=steps, weight_decay=0.0),
            after_step=_into_unit_range,
            progress="learning masks",
        )
        return {
            name: mask.detach().cpu() for name, mask in zip(masked.names, masked.masks, strict=True)
        }


class _Masked(nn.Module):
    """A network whose only parameters are one mask for each BatchNorm layer that has a scale.

    `noise` holds a perturbation of scale and shift for each layer, one after the other; None is
    none.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = copied(net).requires_grad_(False)
        layers = {
            n: m for n, m in self.net.named_modules() if isinstance(m, _BatchNorm) and m.affine
        }
        if not layers:
            raise BadInput(
                "a network without BatchNorm that has scale and shift",
                expected="BatchNorm layers, whose channels ANP prunes",
                fix="use FineTune or FTSAM, which take any network",
            )
        self.names, self.layers = list(layers), list(layers.values())
        self.masks = nn.ParameterList(torch.ones_like(layer.weight) for layer in self.layers)
        self.placed = places(self.net)
        self.noise: Sequence[Tensor | float] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs with scales times (mask + noise) and shifts times (1 + noise)."""
        noise = self.noise or [0.0] * (2 * len(self.layers))
        values = {}
        for name, layer, mask, of_scale, of_shift in zip(
            self.names, self.layers, self.masks, noise[::2], noise[1::2], strict=True
        ):
            values[f"{name}.weight"] = layer.weight * (mask + of_scale)
            values[f"{name}.bias"] = layer.bias * (1 + of_shift)
        out: Tensor = View(self.net, values, {}, {}, self.placed)(x)
        return out


@dataclass(frozen=True)
class _AdversarialLoss:
    """alpha L(masks) + (1 - alpha) max over perturbations, by a signed step from a random start."""

    epsilon: float
    alpha: float

    def __call__(self, masked: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        assert isinstance(masked, _Masked)
        noise = [
            torch.empty_like(mask).uniform_(-self.epsilon, self.epsilon).requires_grad_()
            for mask in masked.masks
            for _ in ("scale", "shift")
        ]
        uphill = torch.autograd.grad(_loss_under(noise, masked, x, y), noise)
        worst = [
            (start + self.epsilon * grad.sign()).clamp(-self.epsilon, self.epsilon).detach()
            for start, grad in zip(noise, uphill, strict=True)
        ]
        plain = cross_entropy(masked, x, y)
        return self.alpha * plain + (1 - self.alpha) * _loss_under(worst, masked, x, y)


def _loss_under(noise: Sequence[Tensor], masked: _Masked, x: Tensor, y: Tensor) -> Tensor:
    masked.noise = noise
    try:
        return cross_entropy(masked, x, y)
    finally:
        masked.noise = None


def _into_unit_range(masked: nn.Module) -> None:
    with torch.no_grad():
        for mask in masked.parameters():
            if mask.requires_grad:
                mask.clamp_(0, 1)


def _pruned(net: nn.Module, masks: Mapping[str, Tensor], threshold: float) -> nn.Module:
    """Return a copy of the network whose channels with a mask below the threshold have scale 0."""
    net = copied(net).eval()
    with torch.no_grad():
        for name, mask in masks.items():
            scale = net.get_submodule(name).weight
            assert isinstance(scale, Tensor)
            scale[(mask < threshold).to(scale.device)] = 0
    return net
