"""What settings of triggers must be, refused where the trigger is made and not where it is first
used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from isthmus.types import BadInput


def is_whole(value: Any) -> bool:
    """Return whether the value is an int, and no bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_number(name: str, value: Any, low: float, high: float) -> None:
    """Refuse what is no number in [low, high]. Raises BadInput.

    >>> check_number("alpha", 0.5, 0, 1)
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (number and low <= value <= high):
        raise BadInput(
            f"{name} = {value!r}",
            expected=f"a number, {low:g} <= {name} <= {high:g}",
            fix=f"choose {name}",
        )


def check_whole(name: str, value: Any, least: int = 1) -> None:
    """Refuse what is no whole number of at least `least`. Raises BadInput."""
    if not is_whole(value) or value < least:
        raise BadInput(
            f"{name} = {value!r}", expected=f"a whole number, {least} or more", fix=f"choose {name}"
        )


def check_fits(pattern: Tensor, shape: Sequence[int]) -> None:
    """Refuse a pattern that is not of the images' shape (c, h, w). Raises BadInput."""
    if pattern.shape != tuple(shape):
        raise BadInput(
            f"a pattern of shape {tuple(pattern.shape)}",
            expected=f"{tuple(shape)}",
            fix="resize the pattern",
        )
