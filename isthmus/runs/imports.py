"""The user's own code, by name: modules, and functions as `PKG.MODULE:FUNCTION`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from isthmus.runs.wording import first_line, suggestion
from isthmus.types import BadInput


def imported(name: str, folder: Path | None = None) -> ModuleType:
    """Return the user's module; the current directory counts, as for `python -m`, and `folder`.

    Raises BadInput where there is no such module, or it fails to import.
    """
    for place in (os.getcwd(), *([] if folder is None else [str(folder.absolute())])):
        if place not in sys.path:
            sys.path.insert(0, place)
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if not error.name or not (name == error.name or name.startswith(error.name + ".")):
            raise BadInput(
                f"module {name!r}, which needs {error.name}",
                expected="a module that imports",
                fix=f"pip install the package that provides {error.name}",
            ) from error
        parent, _, last = name.rpartition(".")
        places = getattr(sys.modules.get(parent), "__path__", None) if parent else sys.path[:2]
        around = [found.name for found in iter_modules(places)] if places else []
        raise BadInput(
            f"unknown module {name!r}",
            expected="one that imports from here",
            fix=f"run where it can be imported; {suggestion(last, around)}",
        ) from error
    except (Exception, SystemExit) as error:  # the user's code may raise anything, or exit
        raise BadInput(
            f"module {name!r}, which fails to import ({type(error).__name__}: {first_line(error)})",
            expected="a module that imports",
            fix="correct the module: python -c 'import MODULE' shows where",
        ) from error


def of_extra(name: str, extra: str, what: str, otherwise: str = "") -> Any:
    """Return the module of an optional dependency that `what` needs.

    Raises BadInput where it is not installed, with the extra to install, or what to do `otherwise`.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise BadInput(
            f"{what} without {name.partition('.')[0]} ({first_line(error)})",
            expected=f"the extra `{extra}`",
            fix=f"pip install 'isthmus[{extra}]'{otherwise}",
        ) from error


def attribute_of(module: ModuleType, name: str) -> Any:
    """Return what the module calls by this name, None where there is nothing.

    Raises BadInput where a module that imports its parts when asked for them fails to.
    """
    try:
        return getattr(module, name, None)
    except (Exception, SystemExit) as error:  # its __getattr__ may raise anything
        raise BadInput(
            f"{name!r}, which fails to import in {module.__name__} "
            f"({type(error).__name__}: {first_line(error)})",
            expected="a name that imports",
            fix=f"install what it needs: python -c 'from {module.__name__} import {name}' shows it",
        ) from error


def named_function(spec: str, folder: Path | None = None) -> Callable[..., Any]:
    """Return the function that `PKG.MODULE:FUNCTION` names.

    Raises BadInput where there is none, or its module fails to import.
    """
    place, _, name = spec.partition(":")
    if not place or not name:
        raise BadInput(
            f"function {spec!r}",
            expected="PKG.MODULE:FUNCTION",
            fix="for example pruning:job, for the function job of pruning.py",
        )
    function = attribute_of(imported(place, folder), name)
    if not callable(function):
        raise BadInput(
            f"{spec!r}, which is no function",
            expected="a function of that module",
            fix="correct the name",
        )
    return function  # type: ignore[no-any-return]
