"""`isthmus quantize`: a checkpoint whose weights have few levels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

from isthmus import compression
from isthmus.cli.options import Budget, Clean, EvaluationOptions, InputFile, ModelSpec, NewFile
from isthmus.cli.smaller import RobustCompression, Work, options_of
from isthmus.types import BadInput

if TYPE_CHECKING:
    from isthmus.compression.quantization.grids import Bits


def quantize_command(
    checkpoint: InputFile,
    *,
    model: ModelSpec,
    clean: Clean,
    out: NewFile,
    bits: Literal["1", "ternary", "2", "4", "8"] = "4",
    method: Literal["binary-relax", "straight-through", "post-training"] = "binary-relax",
    layers: Literal["inner", "all"] | None = None,
    evaluation: EvaluationOptions = EvaluationOptions(),
    robust: RobustCompression = RobustCompression(),
    budget: Budget = Budget(),
) -> None:
    """Round a checkpoint's weights to few levels and train them there.

    Prints accuracy, size and cost before and after, and writes compressed.safetensors, report.json
    and report.html into a folder.

    :param checkpoint: The network to quantize.
    :param out: A new folder.
    :param bits: Bits of a weight; ternary is -1, 0 and 1 times a scale.
    :param method: binary-relax approaches the levels while it trains; straight-through is on them
        from the first step; post-training rounds without training.
    :param layers: Which layers; by default all at 8 bits, and otherwise all but the first and last.
    """
    work = Work.of(checkpoint, model, clean, evaluation, robust)
    way = compression.quantizers()[method]
    options = options_of(budget) if way.trains else {}
    if not way.trains and budget.steps:
        raise BadInput(
            f"--steps {budget.steps} for post-training",
            expected="nothing to train",
            fix="leave --steps out, or pass --method binary-relax",
        )
    small = compression.quantize(
        work.network,
        work.clean,
        cast("Bits", int(bits) if bits.isdecimal() else bits),
        method=way,
        layers=layers,
        loss=robust.objective(work.clean),
        **options,
    )
    work.deliver(small, out)
