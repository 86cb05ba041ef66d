"""`isthmus prune`: a checkpoint with a share of its weights or channels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from isthmus import compression
from isthmus.cli.options import InputFile
from isthmus.cli.smaller import CompressionOptions, Work

if TYPE_CHECKING:
    from isthmus.compression import Compressed


def prune_command(
    checkpoint: InputFile,
    *,
    density: float,
    structure: Literal["weights", "channels"] = "weights",
    method: Literal["magnitude", "rewiring", "learned-scores", "random"] = "magnitude",
    options: CompressionOptions,
) -> None:
    """Drop weights or channels of a checkpoint and train the rest.

    Prints accuracy, size and cost before and after, and writes compressed.safetensors, report.json
    and report.html into a folder. A run that was cut off starts anew.

    :param checkpoint: The network to prune.
    :param density: The share of all weights, or channels, that stays, in (0, 1].
    :param structure: weights drops single weights; channels drops whole channels, so the network is
        smaller and faster.
    :param method: magnitude keeps the largest; rewiring moves connections while it trains;
        learned-scores learns what to keep; random is what the others have to beat.
    """
    work = Work.of(checkpoint, options)
    loss = work.loss
    training = options.training()

    def compress() -> Compressed:
        return compression.prune(
            work.network,
            work.clean,
            density,
            structure,
            method=compression.pruners()[method],
            loss=loss,
            **training,
        )

    settings = {"density": density, "structure": structure, "method": method}
    work.deliver(compress, {"command": "prune", **settings})
