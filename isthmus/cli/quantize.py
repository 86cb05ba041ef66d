"""`isthmus quantize`: a checkpoint whose weights have few levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, cast

from cyclopts import Parameter

from isthmus import compression
from isthmus.cli.options import InputFile
from isthmus.cli.smaller import Compressing, CompressionOptions, Method
from isthmus.types import BadInput

if TYPE_CHECKING:
    from isthmus.compression import Compressed
    from isthmus.compression.quantization.grids import Bits


@Parameter(name="*")
@dataclass(frozen=True)
class Quantizing(Method):
    """How a network is quantized.

    :param bits: Bits of a weight; ternary is -1, 0 and 1 times a scale.
    :param method: binary-relax approaches the levels while it trains; straight-through is on them
        from the first step; post-training rounds without training.
    :param layers: Which layers; by default all at 8 bits, and otherwise all but the first and last.
    """

    command: ClassVar = "quantize"
    bits: Literal["1", "ternary", "2", "4", "8"] = "4"
    method: Literal["binary-relax", "straight-through", "post-training"] = "binary-relax"
    layers: Literal["inner", "all"] | None = None

    @property
    def levels(self) -> Bits:
        """The bits as `compression.quantize` takes them."""
        return cast("Bits", int(self.bits) if self.bits.isdecimal() else self.bits)

    def keeps_zeros(self, *, trained: bool) -> bool:
        """Return whether weights that are 0 stay 0: where nothing trains and the grid has a 0."""
        return not trained and compression.grid_of(self.levels).lowest == 0


def quantize_command(
    checkpoint: InputFile,
    *,
    quantizing: Quantizing = Quantizing(),
    options: CompressionOptions,
) -> None:
    """Round a checkpoint's weights to few levels and train them there.

    Prints accuracy, size and cost before and after, and writes compressed.safetensors, report.json
    and report.html into a folder. An interrupted run starts over.

    :param checkpoint: The network to quantize.
    """
    way = compression.quantizers()[quantizing.method]
    steps = options.budget.steps
    if way.trains and steps == 0:
        raise BadInput(
            f"--steps 0 for {quantizing.method}, which trains",
            expected="steps to train the rounded weights",
            fix="pass --steps 400, or --method post-training",
        )
    if not way.trains and steps:
        raise BadInput(
            f"--steps {steps} for post-training",
            expected="nothing to train",
            fix="leave --steps out, or pass --method binary-relax",
        )
    options.check_used(trained=way.trains)
    zeros_stay = quantizing.keeps_zeros(trained=way.trains)
    work = Compressing.of(checkpoint, options, zeros_stay=zeros_stay)
    loss = work.loss
    budget = work.budget(options.training() if way.trains else None)

    def compress() -> Compressed:
        return compression.quantize(
            work.network,
            work.clean,
            quantizing.levels,
            method=way,
            layers=quantizing.layers,
            loss=loss,
            **budget,
        )

    work.deliver(compress, quantizing)
