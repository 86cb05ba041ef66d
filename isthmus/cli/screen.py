"""`isthmus screen`: which samples of a trusted set do not belong to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from isthmus import data as data_room
from isthmus import detection, evidence
from isthmus.cli.gate import Pipeline
from isthmus.cli.inputs import load_samples, network_if_given
from isthmus.cli.options import Clean, InputFile, ModelSpec, NewNpz, Whole
from isthmus.cli.output import say
from isthmus.types import BadInput

if TYPE_CHECKING:
    from isthmus.data import Data
    from isthmus.detection import Screening


def screen_command(
    checkpoint: InputFile | None = None,
    *,
    clean: Clean,
    model: ModelSpec | None = None,
    layer: str | None = None,
    neighbors: Whole = 10,
    out: NewNpz | None = None,
    pipeline: Pipeline = Pipeline(),
) -> None:
    """Say which trusted samples do not belong.

    Each sample is compared with the others: foreign ones are far from all of them, mislabeled ones
    lie among another class. A fault that many samples share, such as a trigger on a tenth of them,
    is not seen: it has neighbors of its own. A few samples of a clean set are named too.

    :param checkpoint: A network in whose features they are compared, with --model and --layer; by
        default they are compared in pixels, which tell digits apart and photographs not.
    :param layer: The layer whose features are compared.
    :param neighbors: How many others each sample is compared with.
    :param out: A new file for the samples that belong (.npz).
    """
    given = {"checkpoint": checkpoint, "--model": model, "--layer": layer}
    if len({value is None for value in given.values()}) > 1:
        missing = next(name for name, value in given.items() if value is None)
        raise BadInput(
            f"no {missing}",
            expected="a checkpoint, --model and --layer, or none of them",
            fix=f"give {missing} too",
        )
    with pipeline.words():
        samples = load_samples(clean)
        network = network_if_given(model, checkpoint)
        found = detection.screen_trusted(samples, network, layer, neighbors)
        suspects = _suspects(samples, found)
        if suspects:
            say(_table(suspects))
        say(found.summary)
        if out is not None:
            kept = found.belonging(samples)
            data_room.save_npz(kept, out)
            say(f"wrote {out}: {len(kept)} of {len(samples)} samples")
    pipeline.deliver("screen", {"samples": len(samples), "suspects": suspects}, None)


def _suspects(samples: Data, found: Screening) -> list[dict[str, Any]]:
    """Return a record of each suspect sample, the farthest first."""
    names = samples.names
    rows = [
        {
            "index": i,
            "label": str(names[int(samples.y[i])]),
            "foreign": bool(found.foreign[i]),
            "mislabeled": bool(found.mislabeled[i]),
            "distance": float(found.distance[i]),
            "neighbors of one other class": float(found.disagreement[i]),
        }
        for i in found.suspects.nonzero()[:, 0].tolist()
    ]
    return sorted(rows, key=lambda row: row["distance"], reverse=True)


def _table(suspects: list[dict[str, Any]]) -> Any:
    rows = [
        (
            str(row["index"]),
            row["label"],
            " and ".join(why for why in ("foreign", "mislabeled") if row[why]),
            f"{row['distance']:.3g}",
            f"{row['neighbors of one other class']:.0%}",
        )
        for row in suspects
    ]
    heads = ("sample", "label", "why", "distance", "neighbors of one other class")
    return evidence.tables.terminal_table(heads, rows, texts=3)
