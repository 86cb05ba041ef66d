"""`isthmus prune`: a checkpoint with a share of its weights or channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from cyclopts import Parameter

from isthmus import compression
from isthmus.cli.options import InputFile, Number
from isthmus.cli.smaller import Compressing, CompressionOptions, Method
from isthmus.types import BadInput

if TYPE_CHECKING:
    from isthmus.compression import Compressed


@Parameter(name="*")
@dataclass(frozen=True)
class Pruning(Method):
    """How a network is pruned.

    :param density: The share of all weights, or channels, that stays, in (0, 1].
    :param structure: weights drops single weights; channels drops whole channels, so the network is
        smaller and faster.
    :param method: magnitude keeps the largest; rewiring starts from these and moves connections
        while it trains; learned-scores learns what to keep; random is what the others have to beat.
        Rewiring and learned scores are for single weights alone.
    """

    command: ClassVar = "prune"
    density: Number
    structure: Literal["weights", "channels"] = "weights"
    method: Literal["magnitude", "rewiring", "learned-scores", "random"] = "magnitude"


def prune_command(
    checkpoint: InputFile,
    *,
    pruning: Pruning,
    options: CompressionOptions,
) -> None:
    """Drop weights or channels of a checkpoint and train the rest.

    Prints accuracy, size and cost before and after, and writes compressed.safetensors, report.json
    and report.html into a folder. An interrupted run starts over.

    :param checkpoint: The network to prune.
    """
    method = compression.pruners()[pruning.method]
    trained = options.training()
    steps = 0 if trained is None else trained.steps
    if steps < method.least_steps:
        raise BadInput(
            f"--steps {steps} for {pruning.method}",
            expected=f"{method.least_steps} or more",
            fix="raise --steps, or pass --method magnitude",
        )
    options.check_used(trained=trained is not None)
    zeros_stay = pruning.keeps_zeros(trained=trained is not None)
    work = Compressing.of(checkpoint, options, zeros_stay=zeros_stay)
    loss = work.loss
    budget = work.budget(trained)

    def compress() -> Compressed:
        return compression.prune(
            work.network,
            work.clean,
            pruning.density,
            pruning.structure,
            method=method,
            loss=loss,
            **budget,
        )

    work.deliver(compress, pruning)
