"""Prune channels, then fine-tune what is left.

Source: Liu et al., Fine-Pruning, RAID 2018 (by dormancy); Zhao et al., ICLR 2020, section 3.2 (by
norm).

Where we depart from the papers' code: the same end, samples and number of steps as the path gets,
BatchNorm recalibrated on the bonafide samples, and the share of pruned channels is an argument,
never chosen on test data.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils.parametrize import is_parametrized

from isthmus.data.dataset import Source, as_data
from isthmus.defenses.spending import Trained
from isthmus.models.batchnorm import recalibrate
from isthmus.models.forward import outputs
from isthmus.models.view import copied
from isthmus.training.loop import fit
from isthmus.types import BadInput

_Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d


@dataclass(frozen=True)
class FinePrune(Trained):
    """Prune a share of the channels, then fine-tune what is left; pruned weights stay zero.

    `by` "dormancy" prunes the channels of the last convolution that the bonafide samples activate
    least (Liu et al.); "norm" prunes the filters of smallest L1 norm in every convolution (Zhao et
    al.).
    """

    share: float = 0.5
    by: str = "norm"

    def __call__(self, tampered: nn.Module, bonafide: Source) -> nn.Module:
        """Return the pruned and fine-tuned copy.

        Raises BadInput where the share is not in [0, 1), or there is no convolution, or one is
        parametrized.
        """
        if not 0 <= self.share < 1 or self.by not in ("norm", "dormancy"):
            raise BadInput(
                f"share {self.share} by {self.by!r}",
                expected="0 <= share < 1, by norm or dormancy",
                fix="pass share=0.5 and by='norm'",
            )
        net = copied(tampered)
        layers = _prunable(net)
        if self.by == "norm":
            scores = {layer: layer.weight.detach().abs().flatten(1).sum(1) for layer in layers}
        else:
            scores = {layers[-1]: _activity(net, layers[-1], as_data(bonafide).x)}
        for layer, score in scores.items():
            _mask(layer, score, self.share)
        fit(net, bonafide, training=self.training, progress="fine-tuning")
        for layer in scores:
            for name in ("weight", "bias"):
                if prune.is_pruned(layer) and hasattr(layer, f"{name}_mask"):
                    prune.remove(layer, name)
        return recalibrate(net, bonafide)


def _prunable(net: nn.Module) -> list[_Conv]:
    """Return the convolutions. Raises BadInput where there is none, or one has no plain weight."""
    layers = [part for part in net.modules() if isinstance(part, _Conv)]
    if not layers:
        raise BadInput(
            "a network without convolutions",
            expected="channels to prune",
            fix="use FineTune or FTSAM, which take any network",
        )
    if any(is_parametrized(layer) or "weight" not in layer._parameters for layer in layers):
        raise BadInput(
            "convolutions with a weight that is computed, as by weight_norm",
            expected="plain weights to hold at zero",
            fix="remove the parametrization (torch.nn.utils.remove_weight_norm)",
        )
    return layers


def _mask(layer: nn.Module, score: Tensor, share: float) -> None:
    """Hold the lowest-scored share of a convolution's output channels at zero, its bias too."""
    keep = torch.ones_like(score)
    keep[score.argsort()[: int(share * len(score))]] = 0
    for name in ("weight", "bias"):
        value = getattr(layer, name)
        if value is not None:
            mask = keep.view(-1, *[1] * (value.ndim - 1)).expand_as(value)
            prune.custom_from_mask(layer, name, mask)


def _activity(net: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
    """Return the summed absolute output of each of a layer's channels over the samples."""
    total: list[Tensor] = []
    hook = layer.register_forward_hook(
        lambda _, __, out: total.append(out.abs().transpose(0, 1).flatten(1).sum(1))
    )
    try:
        outputs(net, x)
    finally:
        hook.remove()
    return torch.stack(total).sum(0)
