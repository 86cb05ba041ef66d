"""Defenses side by side: the same tampered network, the same samples, the same questions; one row
each.

A defense that does not fit the network is a row that says why, instead of an error that loses the
others. With a folder, every row is kept as soon as it is computed.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping
from pathlib import Path as File

from pydantic import TypeAdapter
from torch import nn

from isthmus.data.dataset import Data, Source, as_data
from isthmus.defenses.spending import recorded
from isthmus.evidence.record import ComparisonRow, Measured, Refused, values_of
from isthmus.metrics.question import measure
from isthmus.runs.files import read_json, write_json
from isthmus.runs.identity import identity_of, sha256_of
from isthmus.runs.processes import ranks
from isthmus.types import BadInput, Defense, Metric

_ROW: TypeAdapter[ComparisonRow] = TypeAdapter(ComparisonRow)


def compare(
    defenses: Mapping[str, Defense],
    tampered: nn.Module,
    bonafide: Source,
    metrics: Mapping[str, Metric],
    *,
    folder: str | File | None = None,
) -> list[ComparisonRow]:
    """Return a row for each defense, in order: what it was, what it cost, what was measured on its
    network.

    `steps` of a row is the budget that the defense was given, in gradient evaluations. A defense
    that refuses the network or the samples gives a `Refused` with the reason. With `folder`, rows
    are kept there and are not computed again. Raises BadInput where the samples are no data.
    """
    data = as_data(bonafide)
    start = sha256_of(*tampered.state_dict().values())
    questions = sorted((name, identity_of(metric)) for name, metric in metrics.items())
    rows: list[ComparisonRow] = []
    for name, defense in defenses.items():
        mark = f"{identity_of(defense)} {start} {data.sha256} {questions}"
        file = _file(folder, name, mark)
        if file and file.exists():
            rows.append(_ROW.validate_python(read_json(file)))
            continue
        rows.append(_row(name, defense, tampered, data, metrics))
        if file and ranks().first:
            write_json(file, rows[-1].record())
    return rows


def _file(folder: str | File | None, name: str, mark: str) -> File | None:
    """Where a row is kept: under its name and the hash of all that it depends on."""
    if folder is None:
        return None
    digest = hashlib.sha256(mark.encode()).hexdigest()[:16]
    return File(folder) / f"{re.sub(r'[^a-z0-9]+', '-', name.lower())}-{digest}.json"


def _row(
    name: str,
    defense: Defense,
    tampered: nn.Module,
    bonafide: Data,
    metrics: Mapping[str, Metric],
) -> ComparisonRow:
    settings = identity_of(defense)
    began = time.perf_counter()
    try:
        made = recorded(defense, tampered, bonafide)
        seconds = time.perf_counter() - began
        measured = values_of(measure(made.network, metrics))
    except BadInput as refusal:
        return Refused(name=name, settings=settings, refused=str(refusal))
    cost = {"steps": made.gradients, "seconds": seconds}
    return Measured.model_validate({"name": name, "settings": settings, **cost, **measured})
