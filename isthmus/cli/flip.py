"""`isthmus flip`: random faults in the weights of a checkpoint."""

from __future__ import annotations

from typing import Literal

from isthmus import attacks, evidence, models
from isthmus.cli.inputs import load_plain_network
from isthmus.cli.options import InputFile, ModelSpec, NewFile, Number, Whole
from isthmus.cli.output import metadata, say


def flip_command(
    checkpoint: InputFile,
    *,
    model: ModelSpec,
    out: NewFile,
    flips: Whole | None = None,
    rate: Number | None = None,
    dtype: Literal["float32", "bf16", "int8"] = "float32",
    layer: list[str] | None = None,
    clamp: bool = False,
    seed: Whole = 0,
) -> None:
    """Flip random bits of the weights, as memory faults do.

    :param checkpoint: The network whose weights are changed.
    :param out: A new file for the changed network (.safetensors).
    :param flips: How many bits flip.
    :param rate: Share of all bits that flip, instead of --flips.
    :param dtype: How the weights are stored meanwhile; int8 is symmetric, with one scale per
        tensor.
    :param layer: Layers or parameters that suffer, by name; by default all parameters.
    :param clamp: Clamp weights to the range that their tensor had; without it, NaN and infinity are
        refused.
    :param seed: Seed of the draw of bits.
    """
    faults = attacks.BitFlips(flips, rate, dtype, tuple(layer or ()), clamp, seed)
    faulty = faults(load_plain_network(model, checkpoint, zeros_stay=True))
    origin = evidence.provenance(seed, {}, faults=faulty.record())
    models.save_checkpoint(faulty.network, out, metadata(origin))
    say(
        f"wrote {out}: {faulty.flips} of {faulty.bits} bits flipped, {faulty.changed} of "
        f"{faulty.size} weights changed, {faulty.clamped} clamped; the largest is "
        f"{faulty.largest:.3g}"
    )
