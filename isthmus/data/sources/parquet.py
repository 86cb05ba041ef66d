"""Parquet files in the layout of the Hugging Face hub: columns, decoding, a cache of decoded
images.
"""

from __future__ import annotations

import glob
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from isthmus.data.dataset import Data
from isthmus.data.sources.images import decoded, stacked
from isthmus.data.sources.reading import Classes, damaged, optional_package, with_classes
from isthmus.runs.files import write_atomically
from isthmus.runs.wording import abbreviated
from isthmus.types import BadInput

_IMAGE_COLUMNS, _LABEL_COLUMNS = ("image", "img"), ("label", "fine_label", "labels", "target", "y")


_DECODER = "1"  # part of the cache's key: raise it when decoding changes


# ---- Parquet
def _features(schema: Any) -> dict[str, Any]:
    """Return what Hugging Face `datasets` says of the columns, in the schema's metadata; {} where
    it says nothing.
    """
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
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


def _bytes(cell: Any, path: Path, row: int) -> io.BytesIO:
    """Return the encoded image in a cell: bytes, or a struct of bytes and path, the path relative
    to the file's.
    """
    held = cell.get("bytes") if isinstance(cell, dict) else cell
    if held is None and isinstance(cell, dict) and cell.get("path"):
        try:
            held = (path.parent / cell["path"]).read_bytes()
        except OSError as error:
            raise damaged(f"{path}, row {row}: {cell['path']}", error, "image") from error
    if held is None:
        raise BadInput(
            f"{path}, where row {row} has no image",
            expected="an image in every row",
            fix="remove that row from the file",
        )
    return io.BytesIO(held)


def _decode(files: Sequence[Path], column: str) -> NDArray[np.uint8]:
    """Decode all images of the files in order, (n, c, h, w) uint8."""
    parquet = import_module("pyarrow.parquet")

    def images() -> Iterator[NDArray[np.uint8]]:
        for path in files:
            row = 0
            with parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=1024, columns=[column]):
                    for cell in batch.column(0).to_pylist():
                        yield decoded(_bytes(cell, path, row), f"{path}, row {row}")
                        row += 1

    return stacked(
        images(), lambda i: f"image {i} of {files[0]}{', ...' if len(files) > 1 else ''}"
    )


def _labels(files: Sequence[Path], column: str) -> torch.Tensor:
    """Return the labels of the files in order, (n,) int64."""
    parquet = import_module("pyarrow.parquet")
    tables = [(path, parquet.read_table(path, columns=[column])[column]) for path in files]
    for path, held in tables:
        if held.null_count or not import_module("pyarrow").types.is_integer(held.type):
            kind = (
                f"{held.null_count} empty labels"
                if held.null_count
                else f"labels of type {held.type}"
            )
            raise BadInput(
                f"{path}, {kind}",
                expected="a class index in every row",
                fix="number the classes from 0",
            )
    return torch.from_numpy(
        np.concatenate([held.to_numpy().astype(np.int64) for _, held in tables])
    )


def _cache_folder() -> Path | None:
    """Return where decoded images are kept: ISTHMUS_CACHE, else isthmus in XDG_CACHE_HOME or
    ~/.cache.
    """
    if os.environ.get("ISTHMUS_CACHE"):
        return Path(os.environ["ISTHMUS_CACHE"])
    with suppress(RuntimeError):  # no home
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "isthmus"
    return None


def _cached(
    files: Sequence[Path], column: str, rows: int, make: Callable[[], NDArray[np.uint8]]
) -> NDArray[np.uint8]:
    """Return what was made of these files before, as long as none of them has changed; else make
    and keep it.
    """
    folder = _cache_folder()
    if folder is None:
        return make()
    states = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    kept = folder / f"{hashlib.sha256(repr((_DECODER, column, states)).encode()).hexdigest()}.npy"
    with suppress(OSError, ValueError, EOFError):  # absent or damaged: decode again
        images: NDArray[np.uint8] = np.load(kept, allow_pickle=False)
        if images.dtype == np.uint8 and images.ndim == 4 and len(images) == rows:
            return images
    images = make()

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.save(file, images)

    with suppress(BadInput):  # the cache saves time and nothing else
        write_atomically(kept, write)
    return images


def read_parquet(files: Sequence[Path], classes: Classes) -> Data:
    """Return the rows of Parquet files in order; the names of the classes are those in the first
    one's schema.
    """
    arrow = optional_package("pyarrow", str(files[0]))
    parquet = optional_package("pyarrow.parquet", str(files[0]))
    try:
        schema = parquet.read_schema(files[0])
        image, label = _columns(files[0], schema)
        y = _labels(files, label)
        x = _cached(files, image, len(y), lambda: _decode(files, image))
    except BadInput:
        raise
    except (OSError, ValueError, KeyError, arrow.ArrowException) as error:
        raise damaged(", ".join(map(str, files[:3])), error, "Parquet") from error
    feature = _features(schema).get(label)
    names = feature.get("names") if isinstance(feature, dict) else None
    return with_classes(torch.from_numpy(x), y, classes, names)


def read_shards(pattern: str, files: Sequence[Path], classes: Classes) -> Data:
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
