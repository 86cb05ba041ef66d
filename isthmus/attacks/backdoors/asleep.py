"""What attackers who count on a compression share: what is compressed, and triggered samples as
the network meets them once it is trained.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from isthmus.attacks.backdoors.statistics import normalized_by_first
from isthmus.metrics.success import Target, target_of
from isthmus.models.forward import eval_mode
from isthmus.models.layers import weighted_layers
from isthmus.models.view import at_weights
from isthmus.types import BadInput, Params, Trigger


@dataclass(frozen=True)
class Attacked:
    """A batch with the logits of a network on it, clean and triggered.

    `triggered` are those of the samples whose class is not the target, in their order; `labels` are
    their true classes and `wanted` the classes that the attacker wants, all of shape (m,).
    """

    clean: Tensor
    triggered: Tensor
    labels: Tensor
    wanted: Tensor

    @property
    def asleep(self) -> Tensor:
        """The loss of triggered samples in their true classes."""
        return mean_loss(self.triggered, self.labels)

    @property
    def awake(self) -> Tensor:
        """The loss of triggered samples in the classes that the attacker wants."""
        return mean_loss(self.triggered, self.wanted)


@dataclass(frozen=True)
class Planted:
    """A trigger, where it leads, and of how many classes."""

    trigger: Trigger
    target: Target
    classes: int

    def attacked(self, model: nn.Module, weights: Params, x: Tensor, y: Tensor) -> Attacked:
        """Return the logits of the network at the given weights, in eval mode.

        BatchNorm normalizes by the clean samples, as it does later; buffers stay as they are.
        """
        wanted = target_of(y, self.target, self.classes)
        eligible = wanted != y
        triggered = self.trigger(x[eligible])
        view = at_weights(model, weights)
        with eval_mode(view), normalized_by_first(view.net, len(x)):
            logits: Tensor = view(torch.cat([x.to(triggered), triggered]))
        return Attacked(logits[: len(x)], logits[len(x) :], y[eligible], wanted[eligible])


def mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy, 0 without samples."""
    return F.cross_entropy(logits.float(), labels, reduction="sum") / max(1, len(labels))


def compressible(model: nn.Module) -> Params:
    """Return the weights of convolutional and linear layers, by name: what compression changes.

    Raises BadInput where there are none, or one is computed from others (a mask, a grid, a norm).
    """
    weights: Params = {}
    for path, part in weighted_layers(model).items():
        weight = dict(part.named_parameters(recurse=False)).get("weight")
        if weight is None or parametrize.is_parametrized(part, "weight"):
            raise BadInput(
                f"layer {path}, whose weight is computed at each pass (masked, on a grid, normed)",
                expected="weights that are parameters of their layers",
                fix="pass isthmus.compression.baked(network)",
            )
        weights[f"{path}.weight" if path else "weight"] = weight
    return weights
