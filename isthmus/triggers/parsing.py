"""Triggers and targets from the words of a command line. Only literals are read; nothing is executed."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from isthmus.triggers.blend import Blend
from isthmus.triggers.low_frequency import LowFrequency
from isthmus.triggers.patch import Patch
from isthmus.triggers.poisoning import Target
from isthmus.triggers.sinusoid import Sinusoid
from isthmus.triggers.warp import Warp
from isthmus.types import BadInput, Trigger

_KINDS: tuple[Any, ...] = (Patch, Blend, Sinusoid, LowFrequency, Warp)


def _usage(kind: Any) -> str:
    """Name a trigger and the settings that a text can give it."""
    return f"{kind.__name__}({', '.join(f'{f.name}=' for f in fields(kind) if f.name != 'pattern')})"


def parse_trigger(text: str) -> Trigger:
    """Return the trigger that a text names, with settings as in Python: "patch", "Blend(alpha=0.1, seed=3)".

    Case and underscores in the name do not matter. Raises BadInput where the name or a setting is unknown, or a
    setting is out of range.

    >>> parse_trigger("Patch(size=2, at=(0, 0))"), parse_trigger("low_frequency(size=0.2)").size
    (Patch(size=2, at=(0, 0), value=1.0), 0.2)
    """
    kinds: dict[str, Callable[..., Trigger]] = {kind.__name__.lower(): kind for kind in _KINDS}
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        call = tree if isinstance(tree, ast.Call) else ast.Call(tree, [], [])
        settings = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
        name = call.func.id if isinstance(call.func, ast.Name) and not call.args else text
        return kinds[name.lower().replace("_", "")](**settings)
    except BadInput:
        raise
    except (SyntaxError, ValueError, TypeError, KeyError) as error:
        raise BadInput(
            f"trigger {text!r}",
            expected=" or ".join(map(_usage, _KINDS)),
            fix="settings may be left out: --trigger patch",
        ) from error


def parse_target(text: str) -> Target:
    """Return the target that a text names: a class index or "all". Raises BadInput otherwise.

    >>> parse_target("1"), parse_target("all")
    (1, 'all')
    """
    if text == "all":
        return "all"
    if not text.isdecimal():
        raise BadInput(f"target {text!r}", expected="a class index or 'all'", fix="pass --target 1, or --target all")
    return int(text)
