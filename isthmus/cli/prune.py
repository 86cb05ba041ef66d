"""`isthmus prune`: a checkpoint with a share of its weights or channels."""

from __future__ import annotations

from typing import Literal

from isthmus import compression
from isthmus.cli.options import Budget, Clean, EvaluationOptions, InputFile, ModelSpec, NewFile
from isthmus.cli.smaller import RobustCompression, Work, options_of


def prune_command(
    checkpoint: InputFile,
    *,
    model: ModelSpec,
    clean: Clean,
    density: float,
    out: NewFile,
    structure: Literal["weights", "channels"] = "weights",
    method: Literal["magnitude", "rewiring", "learned-scores", "random"] = "magnitude",
    evaluation: EvaluationOptions = EvaluationOptions(),
    robust: RobustCompression = RobustCompression(),
    budget: Budget = Budget(),
) -> None:
    """Drop weights or channels of a checkpoint and train the rest.

    Prints accuracy, size and cost before and after, and writes compressed.safetensors, report.json
    and report.html into a folder.

    :param checkpoint: The network to prune.
    :param density: The share of all weights, or channels, that stays, in (0, 1].
    :param out: A new folder.
    :param structure: weights drops single weights; channels drops whole channels, so the network is
        smaller and faster.
    :param method: magnitude keeps the largest; rewiring moves connections while it trains;
        learned-scores learns what to keep; random is what the others have to beat.
    """
    work = Work.of(checkpoint, model, clean, evaluation, robust)
    small = compression.prune(
        work.network,
        work.clean,
        density,
        structure,
        method=compression.pruners()[method],
        loss=robust.objective(work.clean),
        **options_of(budget),
    )
    work.deliver(small, out)
