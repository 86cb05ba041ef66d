"""The record of a report as JSON: written, read, checked against its schema."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import UndefinedError

from isthmus.evidence.labels import Record
from isthmus.runs.files import read_json
from isthmus.types import BadInput


# ── the record ────────────────────────────────────────────────────────────────────────────────────
def schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) that every report.json satisfies."""
    text = (
        resources.files("isthmus.evidence")
        .joinpath("report.schema.json")
        .read_text(encoding="utf-8")
    )
    return dict(json.loads(text))


def plain(value: Any) -> Any:
    """Return a record as strict JSON can hold it: numbers that are not finite become null, tuples
    lists.

    Raises BadInput for anything but mappings, sequences, numbers, text, booleans and None.

    >>> plain({"loss": float("nan"), "t": (0.0, 1.0)})
    {'loss': None, 't': [0.0, 1.0]}
    """
    if isinstance(value, Mapping):
        return {plain(str(key)): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, str):
        return value.encode(
            "utf-8", "replace"
        ).decode()  # a file name may hold bytes that no encoding has
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    raise BadInput(
        f"a {type(value).__name__} in a report",
        expected="plain numbers and text",
        fix="convert it first",
    )


def _checked(record: Record) -> dict[str, Any]:
    """Return the record as plain JSON. Raises BadInput where it is no report of this version, or
    parts are missing.
    """
    contract = schema()
    version = contract["properties"]["schema"]["const"]
    found = record.get("schema") if isinstance(record, Mapping) else None
    if found != version:
        raise BadInput(
            f"a record of schema {found!r}", expected=repr(version), fix="make it with this version"
        )
    missing = [name for name in contract["required"] if name not in record]
    if missing:
        raise BadInput(
            f"a report without {missing}",
            expected="all parts of the schema",
            fix="see docs/report.md",
        )
    return dict(plain(record))


@contextmanager
def _readable() -> Iterator[None]:
    """Turn what goes wrong with a malformed record into BadInput."""
    try:
        yield
    except BadInput:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, UndefinedError) as error:
        raise BadInput(
            f"a report that cannot be shown ({type(error).__name__}: {error})",
            expected="a record that satisfies report.schema.json",
            fix="see docs/report.md, or make the report anew",
        ) from error


def read_report(path: Path | str) -> dict[str, Any]:
    """Return the record in a report.json. Raises BadInput where there is none, or one of another
    version.
    """
    return _checked(read_json(path))
