"""What all readers share: optional packages, damaged files, classes and labels."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from isthmus.data.dataset import Data, as_data
from isthmus.runs.wording import first_line
from isthmus.types import BadInput

Classes = Sequence[str] | int | None


def _optional(module: str, what: str) -> Any:
    """Import a package that only some data need."""
    try:
        return import_module(module)
    except ImportError as error:
        raise BadInput(
            f"{what}, and no package {module.partition('.')[0]} to read it",
            expected="the optional packages for data",
            fix="pip install 'isthmus[data]'",
        ) from error


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def _damaged(path: Path | str, error: BaseException, what: str) -> BadInput:
    return BadInput(
        f"{path}, which cannot be read as {what} ({_reason(error)})",
        expected=f"a whole {what} file",
        fix="copy or download it again",
    )


def _data(x: torch.Tensor, y: torch.Tensor, asked: Classes, said: Classes) -> Data:
    """Return Data with the classes that were asked for, else those the source says, else as many as
    the labels need.
    """
    if asked is None and said is None:
        return as_data((x, y))
    return Data(x, y, said if asked is None else asked)  # type: ignore[arg-type]


def _relabeled(data: Data, classes: Classes) -> Data:
    return data if classes is None else Data(data.x, data.y, classes)
