"""A trigger of the user's own, named on the command line as PKG.MODULE:FUNCTION."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isthmus.runs.files import file_sha256
from isthmus.runs.imports import imported, named_function
from isthmus.runs.wording import first_line
from isthmus.types import BadInput


@dataclass(frozen=True)
class OwnTrigger:
    """A function of images x (n, c, h, w) in [0, 1] that returns them with the trigger on, or an
    object like one; it is given a copy, which it may change, of a part of the images at a time.
    What it returns is checked where it is used.

    `source` is the SHA-256 of the file that it was read from: another version is another trigger.
    """

    name: str
    function: Callable[[Tensor], Any] = field(repr=False, compare=False)
    source: str = ""

    @classmethod
    def named(cls, name: str) -> OwnTrigger:
        """Return the trigger of that name. Raises BadInput where there is none."""
        function = named_function(name)
        file = imported(name.partition(":")[0]).__file__
        return cls(name, function, file_sha256(Path(file)) if file else "")

    def __call__(self, x: Tensor) -> Tensor:
        """Return what the function makes of a copy of the images. Raises BadInput if it fails."""
        try:
            return self.function(x.clone())  # type: ignore[no-any-return]
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except (Exception, SystemExit) as error:  # it may raise anything
            raise BadInput(
                f"trigger {self.name}, which fails on images of shape {tuple(x.shape)} "
                f"({type(error).__name__}: {first_line(error)})",
                expected="a function of images x (n, c, h, w) in [0, 1] that returns changed ones",
                fix=f"call it on torch.rand{tuple(x.shape)}",
            ) from error
