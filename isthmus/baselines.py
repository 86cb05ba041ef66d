"""What a defender would try without a curve; all of them `(tampered, bonafide) -> repaired network`.

Source: Zhao et al., ICLR 2020, section 3.2 (fine-tuning, training from scratch, noise, pruning); Liu et al.,
Fine-Pruning, RAID 2018. Specification, section 13.

Where we depart from the papers' code: every baseline starts from the very endpoint that the path starts from, gets
the same samples and number of steps, and has its BatchNorm recalibrated on the same bonafide data.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from isthmus.batchnorm import recalibrate
from isthmus.curve import Bezier
from isthmus.data import Source, as_data
from isthmus.engine import outputs
from isthmus.train import Training, fit
from isthmus.types import BadInput


class Defense(Protocol):
    """A way to a network that can be trusted again. The tampered one is left as it is; no trigger is ever seen."""

    def __call__(self, tampered: nn.Module, bonafide: Source, /) -> nn.Module:
        """Return the repaired network, in eval mode."""


def _fresh(module: nn.Module, seed: int) -> nn.Module:
    """A copy of the network as its layers initialise themselves.

    Raises BadInput where a module holds parameters of its own but no `reset_parameters`.
    """
    net = copy.deepcopy(module)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for name, part in net.named_modules():
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()
            elif hasattr(part, "_reset_parameters"):
                part._reset_parameters()
            elif next(part.parameters(recurse=False), None) is not None:
                raise BadInput(
                    f"a layer {name or type(part).__name__} that cannot be initialised anew",
                    expected="reset_parameters() on every layer that holds parameters",
                    fix="pass a freshly built network as `fresh`",
                )
    return net


@dataclass(frozen=True)
class FineTune:
    """Go on training the tampered network on the bonafide samples. Options are those of `fit`."""

    training: Training

    def __call__(self, tampered: nn.Module, bonafide: Source) -> nn.Module:
        """Return the fine-tuned copy."""
        net = copy.deepcopy(tampered)
        fit(net, bonafide, **self.training)
        return recalibrate(net, bonafide)


@dataclass(frozen=True)
class FromScratch:
    """Forget the tampered network: train its architecture anew on the bonafide samples."""

    training: Training
    fresh: nn.Module | None = None

    def __call__(self, tampered: nn.Module, bonafide: Source) -> nn.Module:
        """Return the newly trained network. Raises BadInput where a layer cannot be initialised and none is given."""
        net = copy.deepcopy(self.fresh) if self.fresh is not None else _fresh(tampered, self.training.get("seed", 0))
        fit(net, bonafide, **self.training)
        return recalibrate(net, bonafide)


@dataclass(frozen=True)
class GaussianNoise:
    """Random points near the ends, no training: how much of the path's effect is mere perturbation.

    Variant "between": N((w1 + w2) / 2, |w1 - w2| / 2), elementwise. Variant "around": N(w1, |w1 - w2|). w1 is the
    tampered network, w2 the `other`. Source: Zhao et al., ICLR 2020, section 3.2; specification, section 13.
    """

    other: nn.Module = field(repr=False)
    variant: str = "between"
    scale: float = 1.0
    seed: int = 0

    def __call__(self, tampered: nn.Module, bonafide: Source) -> nn.Module:
        """Return one draw. Raises BadInput for an unknown variant."""
        if self.variant not in ("between", "around"):
            raise BadInput(f"noise variant {self.variant!r}", expected="between or around", fix="choose one")
        middle = 0.5 if self.variant == "between" else 0.0
        net = Bezier(tampered, self.other, bends=0).export(middle)
        generator = torch.Generator().manual_seed(self.seed)
        others = dict(self.other.named_parameters())
        with torch.no_grad():
            for (name, p), (_, w1) in zip(net.named_parameters(), tampered.named_parameters(), strict=True):
                if p.is_floating_point():
                    sigma = self.scale * (1 - middle) * (others[name] - w1).abs()
                    p.add_(sigma * torch.randn(p.shape, generator=generator).to(p))
        return recalibrate(net, bonafide)


@dataclass(frozen=True)
class StraightAverage:
    """The midpoint of the straight segment to `other`: the average of the two networks, no training."""

    other: nn.Module = field(repr=False)
    t: float = 0.5

    def __call__(self, tampered: nn.Module, bonafide: Source) -> nn.Module:
        """Return the network at t on the segment."""
        return recalibrate(Bezier(tampered, self.other, bends=0).export(self.t), bonafide)


@dataclass(frozen=True)
class FinePrune:
    """Prune a share of the channels, then fine-tune what is left; pruned weights stay zero.

    `by` "dormancy" prunes the channels of the last convolution that the bonafide samples activate least (Liu et al.);
    "norm" prunes the filters of smallest L1 norm in every convolution (Zhao et al.).
    """

    training: Training
    share: float = 0.5
    by: str = "norm"

    def __call__(self, tampered: nn.Module, bonafide: Source) -> nn.Module:
        """Return the pruned and fine-tuned copy. Raises BadInput where the share is not in [0, 1) or no conv exists."""
        if not 0 <= self.share < 1 or self.by not in ("norm", "dormancy"):
            raise BadInput(
                f"share {self.share} by {self.by!r}", expected="0 <= share < 1, by norm or dormancy", fix="fix them"
            )
        net = copy.deepcopy(tampered)
        layers = [part for part in net.modules() if isinstance(part, nn.Conv1d | nn.Conv2d | nn.Conv3d)]
        if not layers:
            raise BadInput("a network without convolutions", expected="channels to prune", fix="choose another defense")
        if self.by == "norm":
            scores = {layer: layer.weight.detach().abs().flatten(1).sum(1) for layer in layers}
        else:
            scores = {layers[-1]: _activity(net, layers[-1], as_data(bonafide).x)}
        for layer, score in scores.items():
            _mask(layer, score, self.share)
        fit(net, bonafide, **self.training)
        for layer in scores:
            for name in ("weight", "bias"):
                if prune.is_pruned(layer) and hasattr(layer, f"{name}_mask"):
                    prune.remove(layer, name)
        return recalibrate(net, bonafide)


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
    """Mean absolute output of each of a layer's channels over the samples."""
    total: list[Tensor] = []
    hook = layer.register_forward_hook(lambda _, __, out: total.append(out.abs().transpose(0, 1).flatten(1).sum(1)))
    try:
        outputs(net, x)
    finally:
        hook.remove()
    return torch.stack(total).sum(0)


def standard(other: nn.Module, training: Training) -> dict[str, Defense]:
    """Return the baselines of Zhao et al. by name, for one second endpoint and one budget.

    One draw of each noise variant; `training` goes to every baseline that trains.
    """
    return {
        "fine-tune": FineTune(training),
        "from scratch": FromScratch(training),
        "fine-prune, by norm": FinePrune(training, by="norm"),
        "fine-prune, by dormancy": FinePrune(training, by="dormancy"),
        "noise between the ends": GaussianNoise(other, "between"),
        "noise around the tampered end": GaussianNoise(other, "around"),
        "straight average": StraightAverage(other),
    }
