"""What all readers share: optional packages, damaged files, classes and labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from isthmus.data.dataset import Data, as_data
from isthmus.runs.imports import of_extra
from isthmus.runs.wording import first_line
from isthmus.types import BadInput

Classes = Sequence[str] | int | None


def optional_package(module: str, what: str) -> Any:
    """Return a module that only some data need. Raises BadInput where it is not installed."""
    return of_extra(module, "data", what)


def reason_of(error: BaseException) -> str:
    """Return an error's type and first line."""
    return f"{type(error).__name__}: {first_line(error)}"


def damaged(path: Path | str, why: BaseException | str, what: str) -> BadInput:
    """Return the refusal of a file that cannot be read as what it should be."""
    reason = why if isinstance(why, str) else reason_of(why)
    return BadInput(
        f"{path}, which cannot be read as {what} ({reason})",
        expected=f"a whole {what} file",
        fix="copy or download it again",
    )


def with_classes(x: torch.Tensor, y: torch.Tensor, asked: Classes, said: Classes) -> Data:
    """Return Data with the classes that were asked for, else those the source says, else as many as
    the labels need.
    """
    if asked is None and said is None:
        return as_data((x, y))
    return Data(x, y, said if asked is None else asked)  # type: ignore[arg-type]


def relabeled(data: Data, classes: Classes) -> Data:
    """Return the data with these classes, where any are given."""
    return data if classes is None else Data(data.x, data.y, classes)
