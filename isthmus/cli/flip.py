"""`isthmus flip`: random faults into the weights of a checkpoint."""

from __future__ import annotations

from pathlib import Path as File
from typing import Literal

from isthmus.attacks.weights.bit_flips import BitFlips
from isthmus.cli.app import app
from isthmus.cli.options import ModelSpec
from isthmus.cli.output import load_network, metadata, say, unwritten
from isthmus.evidence.origin import provenance
from isthmus.models.checkpoint import save_checkpoint


@app.command(name="flip")
def flip_command(
    checkpoint: File,
    *,
    model: ModelSpec,
    out: File,
    flips: int | None = None,
    rate: float | None = None,
    dtype: Literal["float32", "bf16", "int8"] = "float32",
    layer: list[str] | None = None,
    clamp: bool = False,
    seed: int = 0,
) -> None:
    """Flip random bits of the weights of CHECKPOINT, as memory faults do, and write OUT
    (.safetensors).

    :param flips: How many bits flip.
    :param rate: Instead, the share of all bits that flip.
    :param dtype: How the weights are stored while it happens; int8 is symmetric, with one scale a
        tensor.
    :param layer: Layers or parameters that suffer, by name; by default all parameters.
    :param clamp: Bring weights that leave their tensor's range back into it; otherwise NaN and
    infinity are refused."""
    faults, out = BitFlips(flips, rate, dtype, tuple(layer or ()), clamp, seed), unwritten(out)
    found = faults(load_network(model, checkpoint))
    save_checkpoint(
        found.network, out, metadata({**provenance(seed, {}), "faults": found.record()})
    )
    say(
        f"wrote {out}: {found.flips} of {found.bits} bits flipped, {found.changed} of {found.size} weights changed, "
        f"{found.clamped} clamped; the largest is {found.largest:.3g}"
    )
