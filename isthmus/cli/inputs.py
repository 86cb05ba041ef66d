"""What commands read: checkpoints and samples. What was drawn or left out is said."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from isthmus import compression, data, evidence, models, runs
from isthmus.cli.output import say
from isthmus.runs.notices import notice
from isthmus.runs.wording import counted

if TYPE_CHECKING:
    from pathlib import Path as File

    from torch import nn

    from isthmus.cli.network import ModelSpec
    from isthmus.data import Data
    from isthmus.evidence import Judge

SPARSE = 0.6
"""The share of weights that are 0 from which a network was pruned; ternary weights have less."""


def load_network(model: ModelSpec, checkpoint: File) -> nn.Module:
    """Return the network of a checkpoint, built by a factory (PKG.MODULE:FACTORY), to be measured.

    A packed file, as `prune` and `quantize` write it, is read as well: as a network with ordinary
    weights, and without the channels that were removed.
    """
    built = models.model_factory(model.spec)()
    if models.is_packed(checkpoint):
        return compression.baked(compression.Compressed.load(checkpoint, built).model)
    return models.load_checkpoint(checkpoint, built)


def load_plain_network(
    model: ModelSpec, checkpoint: File, *, zeros_stay: bool = False
) -> nn.Module:
    """Return the network of an ordinary checkpoint, of which the command makes another file; warn
    of zeros, unless what is done leaves them.

    Raises BadInput for a packed file, as channels may be gone: the factory could not read what is
    made of it.
    """
    network = models.load_checkpoint(checkpoint, models.model_factory(model.spec)())
    if not zeros_stay:
        warn_of_zeros(network, checkpoint)
    return network


def warn_of_zeros(network: nn.Module, checkpoint: File) -> None:
    """Give notice of a sparse network, whose zeros are ordinary weights to what follows."""
    weights = [weight for weight in network.parameters() if weight.dim() > 1]
    total = sum(weight.numel() for weight in weights)
    share = 1 - sum(int(weight.count_nonzero()) for weight in weights) / max(1, total)
    if weights and share >= SPARSE:
        notice(
            f"{runs.percent(share)} of the weights of {checkpoint} are 0, and nothing holds them "
            "there: the result may be dense (isthmus.compression.hold_zeros holds them, in Python)"
        )


def network_if_given(model: ModelSpec | None, checkpoint: File | None) -> nn.Module | None:
    """Return the network, None where there is no checkpoint or nothing that builds it."""
    return None if model is None or checkpoint is None else load_network(model, checkpoint)


def load_samples(spec: str) -> Data:
    """Return the samples that a spec names, and say so if they are a random part of the source."""
    samples = data.load_data(spec)
    drawn = re.search(r"#(?:.*seed=(\d+))?", spec)
    if drawn and "#" in spec and any(key in spec.rpartition("#")[2] for key in ("n=", "skip=")):
        order = f"drawn at random with seed {drawn[1] or 0}, not in the order of the source"
        say(f"{spec}: {counted(len(samples), 'sample', 'samples')}, {order}")
    return samples


def say_left_out(judge: Judge) -> None:
    """Say how many evaluation samples were left out because they are among the clean ones."""
    if judge.left_out and judge.evaluation is not None:
        total = judge.left_out + len(judge.evaluation)
        say(
            f"{judge.left_out:,} of {total:,} evaluation samples are left out: they are among the "
            "clean samples"
        )


def warn_of_foreign(samples: Data) -> None:
    """Give notice of trusted samples that are far from all others, in pixels, where they are more
    than a clean set has.
    """
    foreign = evidence.foreign_samples(samples)
    if not foreign:
        return
    shown = ", ".join(map(str, foreign[:5])) + (", ..." if len(foreign) > 5 else "")
    notice(
        f"{len(foreign)} of {len(samples)} clean samples are far from all others, in pixels "
        f"(numbers {shown}): look at them before you trust the repair"
    )
