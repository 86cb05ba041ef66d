"""Parquet files in the layout of the Hugging Face hub: columns, labels, encoded images."""

from __future__ import annotations

import glob
import io
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from isthmus.data.sources.encoded import Encoded, labels_alone
from isthmus.data.sources.reading import Classes, damaged, optional_package
from isthmus.runs.files import parse_json
from isthmus.runs.wording import abbreviated, counted
from isthmus.types import BadInput

_IMAGE_COLUMNS, _LABEL_COLUMNS = ("image", "img"), ("label", "fine_label", "labels", "target", "y")


# What is held of a file at once: cells, and bytes of those that follow.
_CELLS, _BUFFER = 64, 2**20


# ---- Parquet
def _features(schema: Any) -> dict[str, Any]:
    """Return what Hugging Face `datasets` says of the columns, in the schema's metadata; {} where
    it says nothing.
    """
    try:
        features = parse_json((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def _column(
    path: Path, schema: Any, kind: str, usual: Sequence[str], fits: Callable[[Any], bool]
) -> str:
    """Return the column of that kind ("Image", "ClassLabel"): of a usual name, else the only one
    that fits.
    """
    features = _features(schema)
    declared = [
        n
        for n in schema.names
        if isinstance(features.get(n), dict) and features[n].get("_type") == kind
    ]
    for among in (declared, [n for n in schema.names if fits(schema.field(n).type)]):
        named = [name for name in usual if name in among]
        if named or len(among) == 1:
            return (named or among)[0]
    what = "image" if kind == "Image" else "label"
    columns = ", ".join(f"{name} ({schema.field(name).type})" for name in schema.names)
    raise BadInput(
        f"{path} with the columns {columns}",
        expected=f"one {what} column, "
        + ("encoded images" if kind == "Image" else "whole numbers"),
        fix=f"name it {usual[0]!r}",
    )


def _columns(path: Path, schema: Any) -> tuple[str, str]:
    """Return the names of the image column and of the label column."""
    types = import_module("pyarrow").types

    def encoded(kind: Any) -> bool:
        holds = types.is_binary(kind) or types.is_large_binary(kind)
        return bool(holds or (types.is_struct(kind) and kind.get_field_index("bytes") >= 0))

    return (
        _column(path, schema, "Image", _IMAGE_COLUMNS, encoded),
        _column(path, schema, "ClassLabel", _LABEL_COLUMNS, types.is_integer),
    )


def _encoded(cell: Any, path: Path, row: int) -> tuple[str, io.BytesIO]:
    """Return the name and the encoded image in a cell: bytes, or a struct of bytes and path, the
    path relative to the file's.
    """
    name = f"{path}, row {row}"
    held = cell.get("bytes") if isinstance(cell, dict) else cell
    if held is None and isinstance(cell, dict) and cell.get("path"):
        name = f"{name}: {cell['path']}"
        try:
            held = (path.parent / cell["path"]).read_bytes()
        except OSError as error:
            raise damaged(name, error, "image") from error
    if held is None:
        raise BadInput(
            f"{path}, where row {row} has no image",
            expected="an image in every row",
            fix="remove that row from the file",
        )
    return name, io.BytesIO(held)


def _cells(
    files: Sequence[Path], column: str, rows: torch.Tensor
) -> Iterator[tuple[str, io.BytesIO]]:
    """Yield the name and the encoded image of each of the given rows, which ascend; groups of rows
    without any of them are not read.
    """
    parquet = import_module("pyarrow.parquet")
    before = 0  # rows of the files before this one
    for path in files:
        with _readable([path]), parquet.ParquetFile(path, buffer_size=_BUFFER) as file:
            first = 0
            for group in range(file.num_row_groups):
                end = first + file.metadata.row_group(group).num_rows
                start, stop = torch.searchsorted(rows, torch.tensor([first, end]) + before)
                for row, cell in _group(file, group, column, rows[start:stop] - before - first):
                    yield _encoded(cell, path, first + row)
                first = end
        before += first


def _group(file: Any, group: int, column: str, rows: torch.Tensor) -> Iterator[tuple[int, Any]]:
    """Yield the given rows of a group and what is in their cells, a few at a time."""
    wanted = rows.tolist()
    if not wanted:
        return
    first = 0
    for batch in file.iter_batches(_CELLS, row_groups=[group], columns=[column]):
        cells = batch.column(0)
        inside = wanted[bisect_left(wanted, first) : bisect_left(wanted, first + len(cells))]
        yield from ((row, cells[row - first].as_py()) for row in inside)
        first += len(cells)


@contextmanager
def _readable(files: Sequence[Path]) -> Iterator[None]:
    """Run a block that reads the files. Raises BadInput where they are damaged."""
    arrow = optional_package("pyarrow", str(files[0]))
    try:
        yield
    except BadInput:
        raise
    except (OSError, ValueError, KeyError, arrow.ArrowException) as error:
        raise damaged(", ".join(map(str, files[:3])), error, "Parquet") from error


def _labels(files: Sequence[Path], column: str) -> torch.Tensor:
    """Return the labels of the files in order, (n,) int64."""
    parquet = import_module("pyarrow.parquet")
    tables = [(path, parquet.read_table(path, columns=[column])[column]) for path in files]
    for path, held in tables:
        if held.null_count or not import_module("pyarrow").types.is_integer(held.type):
            empty = counted(held.null_count, "empty label", "empty labels")
            kind = empty if held.null_count else f"labels of type {held.type}"
            raise BadInput(
                f"{path}, {kind}",
                expected="a class index in every row",
                fix="number the classes from 0",
            )
    return torch.from_numpy(
        np.concatenate([held.to_numpy().astype(np.int64) for _, held in tables])
    )


def read_parquet(files: Sequence[Path], classes: Classes) -> Encoded:
    """Return the rows of Parquet files in order; the names of the classes are those in the first
    one's schema.
    """
    with _readable(files):
        schema = optional_package("pyarrow.parquet", str(files[0])).read_schema(files[0])
        image, label = _columns(files[0], schema)
        y = _labels(files, label)
    feature = _features(schema).get(label)
    names = feature.get("names") if isinstance(feature, dict) else None
    return Encoded(
        labels_alone(y, classes, names),
        origin=repr((image, [str(path.resolve()) for path in files])),
        files=files,
        read=lambda rows: _cells(files, image, rows),
    )


def read_shards(pattern: str, files: Sequence[Path], classes: Classes) -> Encoded:
    """Return the Parquet files of one split as one set, in the order of their names."""
    words = "(?<![a-z])(?:train|test|val|dev)"
    splits = {word for file in files for word in re.findall(words, file.stem.lower())}
    if len(splits) > 1:
        raise BadInput(
            f"{pattern} with files of several splits ({abbreviated(file.name for file in files)})",
            expected="the files of one split, so that no test sample is trained on",
            fix=f"name one file, or a pattern such as {files[0].parent / 'train*.parquet'}",
        )
    _check_whole(pattern, files)
    return read_parquet(sorted(files), classes)


_SHARD = re.compile(r"(.*-)(\d+)(-of-)(\d+)(\.parquet)")


def _check_whole(pattern: str, files: Sequence[Path]) -> None:
    """Raise BadInput where the names of shards (train-00000-of-00003) say that there are more.

    A pattern that leaves the missing ones out on purpose is no mistake.
    """
    present = {file.name for file in files}
    missing = set()
    for match in filter(None, (_SHARD.fullmatch(name) for name in sorted(present))):
        head, number, of, total, tail = match.groups()
        names = {f"{head}{i:0{len(number)}}{of}{total}{tail}" for i in range(int(total))}
        missing |= {
            name
            for name in names - present
            if not glob.has_magic(pattern) or fnmatch(name, Path(pattern).name)
        }
    if missing:
        raise BadInput(
            f"{pattern}, which lacks {len(missing)} of its parts ({abbreviated(missing)})",
            expected="every part that the names of the others count",
            fix="download them too, or name one file",
        )
