"""Defenses side by side: the same tampered network, the same samples, the same questions; one row
each.

Source: specification, section 13. Where we depart: a defense that does not fit the network is a row
that says why, instead of an error that loses the others; every row is kept as soon as it is
computed."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping
from pathlib import Path as File
from typing import Any

from torch import nn

from isthmus.data.dataset import Data, Source, as_data
from isthmus.metrics.question import measure
from isthmus.metrics.values import as_records
from isthmus.runs.files import read_json, write_json
from isthmus.runs.identity import identity_of, sha256_of
from isthmus.runs.processes import ranks
from isthmus.training.budget import budget_of
from isthmus.types import BadInput, Defense, Metric

Row = dict[str, Any]
"""`name`, `settings`, `steps`, `seconds` and a record for every metric; or `name`, `settings` and
`refused`.
"""


def compare(
    defenses: Mapping[str, Defense],
    tampered: nn.Module,
    bonafide: Source,
    metrics: Mapping[str, Metric],
    *,
    folder: str | File | None = None,
) -> list[Row]:
    """Return a row for each defense, in order: what it was, what it cost, what was measured on its
    network.

    `steps` is the budget that the defense was given, in gradient evaluations. A defense that
    refuses the network or the samples gives a row with the reason. With `folder`, rows are kept
    there and are not computed again. Raises BadInput where the samples are no data."""
    data, rows = as_data(bonafide), []
    start = sha256_of(*tampered.state_dict().values())
    for name, defense in defenses.items():
        mark = f"{identity_of(defense)} {start} {data.sha256} {sorted((n, identity_of(m)) for n, m in metrics.items())}"
        digest = hashlib.sha256(mark.encode()).hexdigest()[:16]
        file = (
            File(folder) / f"{re.sub(r'[^a-z0-9]+', '-', name.lower())}-{digest}.json"
            if folder
            else None
        )
        if file and file.exists():
            rows.append(read_json(file))
            continue
        rows.append(
            {
                "name": name,
                "settings": identity_of(defense),
                **_row(defense, tampered, data, metrics),
            }
        )
        if file and ranks().first:
            write_json(file, rows[-1])
    return rows


def _row(
    defense: Defense, tampered: nn.Module, bonafide: Data, metrics: Mapping[str, Metric]
) -> Row:
    began = time.perf_counter()
    try:
        net = defense(tampered, bonafide)
        seconds = time.perf_counter() - began
        return {
            "steps": budget_of(defense),
            "seconds": seconds,
            **as_records(measure(net, metrics)),
        }
    except BadInput as refusal:
        return {"refused": str(refusal)}
