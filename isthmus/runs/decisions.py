"""What a run decides by measuring, such as its precision: decided once, and the same when it is
resumed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from isthmus.runs.files import read_json, write_json
from isthmus.runs.processes import gathered, ranks
from isthmus.types import BadInput

T = TypeVar("T", str, int)

DECISIONS = "decisions.json"
"""The file of a run's folder that holds what the run has decided."""


def decided(file: Path | None, name: str, decide: Callable[[], T]) -> T:
    """Return what was decided under this name: by an earlier run with this file, else by
    `decide()` now, and the file remembers it.

    Among several processes the first one decides for all. Raises BadInput where the file is none of
    ours or cannot be written.
    """
    choice = _first_choice(file, name, decide) if ranks().first else None
    first: T | None = gathered(choice)[0]
    assert first is not None
    return first


def _first_choice(file: Path | None, name: str, decide: Callable[[], T]) -> T:
    if file is None:
        return decide()
    held = _held(file)
    if name not in held:
        held[name] = decide()
        write_json(file, held)
    choice: T = held[name]
    return choice


def _held(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    held = read_json(file)
    if not isinstance(held, dict):
        raise BadInput(
            f"{file}, which holds no decisions of a run",
            expected="what an earlier run wrote there",
            fix="delete the file, and the run decides anew",
        )
    return held
