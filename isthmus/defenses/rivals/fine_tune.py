"""Training on the bonafide samples alone: from where the tampered network stands, or from nothing.

Source: Zhao et al., ICLR 2020, section 3.2.

Where we depart from the paper's code: the same end, samples and number of steps as the path gets,
and BatchNorm recalibrated on the bonafide samples.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from isthmus.data.dataset import Source
from isthmus.defenses.spending import Trained
from isthmus.models.batchnorm import recalibrate
from isthmus.models.view import copied
from isthmus.training.loop import fit
from isthmus.types import BadInput


@dataclass(frozen=True)
class FineTune(Trained):
    """Go on training the tampered network on the bonafide samples.

    Unfinished training is saved to `checkpoint`, which is no part of the defense's identity.
    """

    checkpoint: str | Path | None = field(default=None, repr=False)

    def __call__(self, tampered: nn.Module, bonafide: Source) -> nn.Module:
        """Return the fine-tuned copy, in eval mode. Raises BadInput as `fit` does."""
        net = copied(tampered)
        fit(
            net,
            bonafide,
            training=self.training,
            progress="fine-tuning",
            checkpoint=self.checkpoint,
        )
        return recalibrate(net, bonafide)


@dataclass(frozen=True)
class FromScratch(Trained):
    """Forget the tampered network: train its architecture anew on the bonafide samples."""

    fresh: nn.Module | None = None

    def __call__(self, tampered: nn.Module, bonafide: Source) -> nn.Module:
        """Return the newly trained network. Raises BadInput where a layer cannot be initialized and
        none is given.
        """
        net = _fresh(tampered, self.training.seed) if self.fresh is None else copied(self.fresh)
        fit(net, bonafide, training=self.training, progress="training from scratch")
        return recalibrate(net, bonafide)


def _fresh(module: nn.Module, seed: int) -> nn.Module:
    """Return a copy of the network as its layers initialize themselves.

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
