"""A trigger of the user's own, named on the command line as PKG.MODULE:FUNCTION."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from isthmus.runs.imports import named_function
from isthmus.runs.wording import first_line
from isthmus.types import BadInput


@dataclass(frozen=True)
class OwnTrigger:
    """A function of images x (n, c, h, w) in [0, 1] that returns them with the trigger on, or an
    object like one; it is given a copy, which it may change. What it returns is checked where it is
    used.
    """

    name: str
    function: Callable[[Tensor], Any] = field(repr=False, compare=False)

    @classmethod
    def named(cls, name: str) -> OwnTrigger:
        """Return the trigger of that name. Raises BadInput where there is none."""
        return cls(name, named_function(name))

    def __call__(self, x: Tensor) -> Tensor:
        """Return what the function makes of a copy of the images. Raises BadInput if it fails."""
        try:
            return self.function(x.clone())  # type: ignore[no-any-return]
        except (Exception, SystemExit) as error:  # it may raise anything
            raise BadInput(
                f"trigger {self.name}, which fails on images of shape {tuple(x.shape)} "
                f"({type(error).__name__}: {first_line(error)})",
                expected="a function of images x (n, c, h, w) in [0, 1] that returns changed ones",
                fix=f"call it on torch.rand{tuple(x.shape)}",
            ) from error
