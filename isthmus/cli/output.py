"""What commands print and write, and the checkpoints that they read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path as File
from tempfile import TemporaryFile
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import nn

from isthmus.evidence import text, words
from isthmus.evidence.record import Landscape, Value
from isthmus.models.checkpoint import load_checkpoint
from isthmus.models.factory import model_factory
from isthmus.runs.processes import ranks
from isthmus.runs.wording import first_line
from isthmus.types import BadInput


def say(text: Any) -> None:
    """Print a text or a table, once for all processes."""
    if ranks().first:
        Console().print(text)


def metric_table(first: str, rows: Sequence[tuple[str, Mapping[str, Value | float]]]) -> Table:
    """Return one row per network, one column per metric: the value, its 95 % interval, the counts."""
    table = Table(first, *rows[0][1], caption="95 % intervals", caption_justify="left")
    for head, values in rows:
        cells = [words.format_value(value) for value in values.values()]
        table.add_row(head, *(f"{cell.main} ({cell.details})" for cell in cells))
    return table


def metadata(origin: dict[str, Any]) -> dict[str, str]:
    """Return a provenance as a checkpoint holds it."""
    return {"provenance": json.dumps(origin)}


OF_TORCH = (".pt", ".pth", ".ckpt", ".bin", ".pkl")


def unwritten(out: File) -> File:
    """Return the file; refuse one that exists, is named as what it will not be, or cannot be made,
    before any work.
    """
    if out.exists() or not out.name:
        got = f"{out}, which exists" if out.name else "an empty name"
        raise BadInput(
            got, expected="a new file", fix="choose another --out; nothing is overwritten"
        )
    if out.suffix in OF_TORCH:
        fix = "choose another --out"
        raise BadInput(
            f"{out}, a name for pickles of torch",
            expected="safetensors, JSON or npz, as written",
            fix=fix,
        )
    try:
        with TemporaryFile(dir=next(each for each in out.absolute().parents if each.exists())):
            return out
    except OSError as error:
        place = f"{out}, in a place that cannot be written ({first_line(error)})"
        raise BadInput(place, expected="a folder of yours", fix="choose another --out") from error


def state_file(out: File, resume: bool) -> File:
    """Return where the training of `out` keeps its state; refuse a finished or unclaimed one, so
    nothing is lost.
    """
    state = unwritten(out).with_name(f".{out.name}.state")
    if state.exists() and not resume:
        raise BadInput(
            f"an unfinished run of {out}",
            expected="a new file",
            fix="pass --resume to go on with it",
        )
    return state


def load_network(model: str, checkpoint: File) -> nn.Module:
    """Return the network of a checkpoint, made by a factory (PKG.MODULE:FACTORY)."""
    return load_checkpoint(checkpoint, model_factory(model)())


def say_landscape(part: Landscape) -> None:
    """Print the tables of a landscape, and what to keep in mind with them."""
    for table in text.landscape_tables(part):
        say(table)
    for caveat in part.caveats:
        say(f"- {caveat}")
