"""`isthmus export`: one network of a curve, as a checkpoint."""

from __future__ import annotations

from pathlib import Path as File

from isthmus.cli.app import app
from isthmus.cli.options import Clean, ModelSpec
from isthmus.cli.output import metadata, say, unwritten
from isthmus.curves.file import load_curve
from isthmus.curves.point import network_at
from isthmus.data.sources.spec import load_data
from isthmus.evidence.origin import provenance
from isthmus.models.checkpoint import save_checkpoint
from isthmus.models.factory import model_factory


@app.command
def export(curve: File, *, t: float, model: ModelSpec, clean: Clean, out: File) -> None:
    """Write the network at T on CURVE to OUT (.safetensors), BatchNorm recalibrated on the clean
    samples.
    """
    samples, out = load_data(clean), unwritten(out)
    net = network_at(load_curve(curve, model_factory(model)), t, samples)
    save_checkpoint(
        net, out, metadata({**provenance(0, {"clean": samples}), "curve": str(curve), "t": t})
    )
    say(f"wrote {out}")
