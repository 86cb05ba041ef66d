"""Keyword options that are fields of a dataclass: sorted by class, unknown ones refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from numbers import Integral, Real
from typing import Any

from isthmus.runs.wording import suggestion
from isthmus.types import BadInput


def sorted_options(options: Mapping[str, Any], *kinds: type) -> list[dict[str, Any]]:
    """Return the options that are fields of each of the dataclasses, one dict for each class.

    Raises BadInput where an option is a field of none of them, with the names nearest to it.

    >>> from isthmus.training import Training
    >>> sorted_options({"lr": 0.1}, Training)
    [{'lr': 0.1}]
    >>> sorted_options({"learning_rate": 0.1, "step": 3}, Training)
    Traceback (most recent call last):
    isthmus.types.BadInput: got the unknown option learning_rate; ...
    """
    names = [{field.name for field in fields(kind)} for kind in kinds]
    known = set().union(*names)
    for name in options:
        if name not in known:
            raise BadInput(
                f"the unknown option {name}",
                expected=f"fields of {' or '.join(kind.__name__ for kind in kinds)}",
                fix=suggestion(name, known),
            )
    return [{name: options[name] for name in options if name in own} for own in names]


def require_numbers(options: object, *names: str) -> None:
    """Raise BadInput where one of these fields of an options class is no number."""
    for name in names:
        value = getattr(options, name)
        if not isinstance(value, Real):
            raise BadInput(
                f"{name} = {value!r}", expected="a number", fix=f"pass {name} without quotes"
            )


def require_seed(seed: object) -> None:
    """Raise BadInput where a seed is no whole number, or larger than one is used for: what is drawn
    anew in each epoch takes a million seeds from it, and torch takes 64 bits.

    >>> require_seed(2**70)
    Traceback (most recent call last):
    isthmus.types.BadInput: got seed = 1180591620717411303424; ...
    """
    if not isinstance(seed, Integral) or abs(int(seed)) >= 2**43:
        raise BadInput(
            f"seed = {seed!r}", expected="a whole number below 2**43 in size", fix="pass seed=0"
        )
