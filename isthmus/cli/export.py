"""`isthmus export`: one network of a curve, as a checkpoint."""

from __future__ import annotations

from isthmus import curves, evidence, models
from isthmus.cli.inputs import load_samples
from isthmus.cli.options import Clean, InputFile, ModelSpec, NewFile, Number
from isthmus.cli.output import metadata, say


def export_command(
    curve: InputFile, *, t: Number, model: ModelSpec, clean: Clean, out: NewFile
) -> None:
    """Write one network of a curve as a checkpoint.

    BatchNorm is recalibrated on the clean samples.

    :param curve: A curve, as `isthmus connect` writes it.
    :param t: The point on the curve, from 0 (its start) to 1 (its end).
    :param out: A new file for the network (.safetensors).
    """
    samples = load_samples(clean)
    loaded = curves.load_curve(curve, models.model_factory(model.spec))
    network = curves.network_at(loaded, t, samples)
    origin = evidence.provenance(0, {"clean": samples}, curve=str(curve), t=t)
    models.save_checkpoint(network, out, metadata(origin))
    say(f"wrote {out}")
