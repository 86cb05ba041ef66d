"""Where a result comes from: what goes into every report and every file that is written."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import nn

from isthmus.data.dataset import Data
from isthmus.evidence.record import NetworkKind, Origin, Provenance
from isthmus.runs.files import file_sha256
from isthmus.runs.portable import LEFT_OUT, portable
from isthmus.runs.versions import versions


def _program() -> str:
    """The program as a person calls it, without the place where it is installed."""
    file = Path(sys.argv[0])
    return f"python -m {file.parent.name}" if file.name == "__main__.py" else file.name


def _command(words: Iterable[str]) -> str:
    return f"{_program()} {shlex.join(words)}"


def typed_command() -> str:
    """Return the command line with its paths as they were typed: for a terminal, and no record."""
    return _command(sys.argv[1:])


def provenance(seed: int, data: Mapping[str, Data], **further: Any) -> Origin:
    """Return versions, platform, seed, command line, time, the hash, count and classes of each data
    set, and further entries that plain JSON can hold.

    >>> provenance(1, {}, how="by hand").record()["how"]
    'by hand'
    """
    sets = {
        name: {"sha256": samples.sha256, "n": len(samples), "classes": samples.num_classes}
        for name, samples in data.items()
    }
    known = {
        **versions(),
        "platform": platform.platform(),
        "seed": seed,
        "command": _command(portable(word, LEFT_OUT) for word in sys.argv[1:]),
        "data": sets,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return Origin.model_validate({**known, **further})


def network_provenance(seed: int, data: Mapping[str, Data], checkpoint: Path | None) -> Origin:
    """Return the provenance of what was measured on one network: that of the data, and the path and
    hash of its checkpoint; without a checkpoint, no network took part.
    """
    return provenance(seed, data, **_weights(checkpoint))


def _weights(checkpoint: Path | None) -> dict[str, Any]:
    if checkpoint is None:
        return {}
    return {"checkpoint": _file(checkpoint)}


def _file(path: Path) -> dict[str, str]:
    return {"path": portable(str(path)), "sha256": file_sha256(path)}


def network_kind(network: nn.Module, model: str | None = None) -> NetworkKind:
    """Return what a network is: its class, its number of parameters, and the factory where it is
    known.
    """
    named = {} if model is None else {"model": model}
    parameters = sum(p.numel() for p in network.parameters())
    return NetworkKind(architecture=type(network).__name__, parameters=parameters, **named)


def report_provenance(
    seed: int,
    data: Mapping[str, Data],
    *,
    other: str,
    other_file: Path | None = None,
    checkpoint: Path | None = None,
) -> Provenance:
    """Return the provenance of a report: that of its data, and of its two networks.

    `other` says how the second endpoint was made, "given" where it was not; `checkpoint` and
    `other_file` are the files of the two networks, if they come from files. Time and recalibration
    are filled in later, by `evidence` and `Report.timed`.
    """
    entries: dict[str, Any] = {"other": {"kind": other}}
    if other_file is not None:
        entries["other"] |= _file(other_file)
    entries |= _weights(checkpoint)
    pending = {"recalibrated_on": "", "seconds": None}
    known = provenance(seed, data, **entries, **pending)
    return Provenance.model_validate(known.record())
