"""`isthmus align`: one checkpoint, permuted to match another."""

from __future__ import annotations

from pathlib import Path as File
from typing import Literal

from isthmus.cli.app import app
from isthmus.cli.options import Clean, ModelSpec
from isthmus.cli.output import load_network, metadata, say, unwritten
from isthmus.data.sources.spec import load_data
from isthmus.evidence.origin import provenance
from isthmus.metrics.barrier import linear_barrier
from isthmus.models.channels.matching import align
from isthmus.models.checkpoint import save_checkpoint


@app.command(name="align")
def align_command(
    reference: File,
    network: File,
    *,
    model: ModelSpec,
    clean: Clean,
    out: File,
    by: Literal["activations", "weights"] = "activations",
    seed: int = 0,
) -> None:
    """Permute the channels of NETWORK to match REFERENCE, computing the same, and write OUT
    (.safetensors).

    What cannot be permuted is listed with the reason.
    """
    samples, out = load_data(clean), unwritten(out)
    first, second = (load_network(model, file) for file in (reference, network))
    found = align(first, second, samples, by=by, seed=seed)
    origin = provenance(seed, {"clean": samples})
    save_checkpoint(found.model, out, metadata({**origin, "aligned to": str(reference), "by": by}))
    was, now = (linear_barrier(first, each, samples) for each in (second, found.model))
    for name, reason in found.fixed.items():
        say(f"{name} stays: {reason}")
    say(
        f"wrote {out}: {found.moved:.0%} of the channels moved; loss barrier of the straight line {was:.3f} before, "
        f"{now:.3f} after"
    )
