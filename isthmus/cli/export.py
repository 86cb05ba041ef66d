"""`isthmus export`: one network of a curve, as a checkpoint."""

from __future__ import annotations

from pathlib import Path as File

from isthmus.checkpoint import save_checkpoint
from isthmus.cli.app import app
from isthmus.cli.options import Clean, ModelSpec
from isthmus.cli.output import metadata, say, unwritten
from isthmus.curvefile import load_curve
from isthmus.factory import model_factory
from isthmus.path import network_at
from isthmus.provenance import provenance
from isthmus.sources import load_data


@app.command
def export(curve: File, *, t: float, model: ModelSpec, clean: Clean, out: File) -> None:
    """Write the network at T on CURVE to OUT (.safetensors), BatchNorm recalibrated on the clean samples."""
    samples, out = load_data(clean), unwritten(out)
    net = network_at(load_curve(curve, model_factory(model)), t, samples)
    save_checkpoint(net, out, metadata({**provenance(0, {"clean": samples}), "curve": str(curve), "t": t}))
    say(f"wrote {out}")
