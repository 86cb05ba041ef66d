"""Training on the bonafide samples alone: from where the tampered network stands, or from nothing.

Source: Zhao et al., ICLR 2020, section 3.2; specification, section 13.

Where we depart from the paper's code: the same end, samples and number of steps as the path gets,
and BatchNorm recalibrated on the bonafide samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from isthmus.data.dataset import Source
from isthmus.models.batchnorm import recalibrate
from isthmus.models.view import copied
from isthmus.training.budget import Training
from isthmus.training.loop import fit
from isthmus.types import BadInput


@dataclass(frozen=True)
class FineTune:
    """Go on training the tampered network on the bonafide samples. Options are those of `fit`."""

    training: Training

    def __call__(self, tampered: nn.Module, bonafide: Source) -> nn.Module:
        """Return the fine-tuned copy, in eval mode. Raises BadInput as `fit` does."""
        net = copied(tampered)
        fit(net, bonafide, **self.training)
        return recalibrate(net, bonafide)


@dataclass(frozen=True)
class FromScratch:
    """Forget the tampered network: train its architecture anew on the bonafide samples."""

    training: Training
    fresh: nn.Module | None = None

    def __call__(self, tampered: nn.Module, bonafide: Source) -> nn.Module:
        """Return the newly trained network. Raises BadInput where a layer cannot be initialized and
        none is given.
        """
        net = (
            copied(self.fresh)
            if self.fresh is not None
            else _fresh(tampered, self.training.get("seed", 0))
        )
        fit(net, bonafide, **self.training)
        return recalibrate(net, bonafide)


def _fresh(module: nn.Module, seed: int) -> nn.Module:
    """A copy of the network as its layers initialize themselves.

    Raises BadInput where a module holds parameters of its own but no `reset_parameters`.
    """
    net = copied(module)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for name, part in net.named_modules():
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()
            elif hasattr(part, "_reset_parameters"):
                part._reset_parameters()
            elif next(part.parameters(recurse=False), None) is not None:
                raise BadInput(
                    f"a layer {name or type(part).__name__} that cannot be initialized anew",
                    expected="reset_parameters() on every layer that holds parameters",
                    fix="pass a freshly built network as `fresh`",
                )
    return net
