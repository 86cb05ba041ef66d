"""The user's own network, by name: `PKG.MODULE:FACTORY`. The only code that is ever called is the
user's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from isthmus.runs.imports import imported
from isthmus.runs.wording import first_line, suggestion
from isthmus.types import BadInput


def _setting(spec: str, text: str) -> tuple[str, Any]:
    """Return a `name=value` of a spec, the value as a number or a truth value where it reads as
    one.
    """
    name, equals, value = text.partition("=")
    if not (equals and name.isidentifier()):
        raise BadInput(
            f"{text!r} in {spec!r}",
            expected="name=value",
            fix="write PKG.MODULE:FACTORY,depth=26,classes=10",
        )
    words: dict[str, Any] = {"true": True, "false": False, "none": None}
    if value.lower() in words:
        return name, words[value.lower()]
    for read in (int, float):
        try:
            return name, read(value)
        except ValueError:
            pass
    return name, value


def _check_arguments(spec: str, factory: Callable[..., Any], named: Mapping[str, Any]) -> None:
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # of a builtin
        return
    names = list(signature.parameters)
    anything = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    unknown = [name for name in named if name not in names and not anything]
    try:
        signature.bind(**named)
    except TypeError as error:
        takes = f"arguments of {spec.partition(':')[2].partition(',')[0]}{signature}"
        fix = suggestion(unknown[0], names) if unknown else "pass it as ,name=value"
        raise BadInput(f"{spec!r}: {error}", expected=takes, fix=fix) from error


def _build(spec: str, factory: Callable[..., Any], named: Mapping[str, Any]) -> nn.Module:
    try:
        module = factory(**named)
    except BadInput:
        raise
    except Exception as error:  # the user's code may raise anything
        raise BadInput(
            f"{spec!r}, which fails ({type(error).__name__}: {first_line(error)})",
            expected="a callable that builds the network",
            fix="correct it or its arguments",
        ) from error
    if not isinstance(module, nn.Module):
        raise BadInput(
            f"{spec!r}, which returns a {type(module).__name__}",
            expected="a callable that returns a torch.nn.Module",
            fix="return the network",
        )
    return module


def model_factory(spec: str) -> Callable[[], nn.Module]:
    """Return what builds the user's network: "PKG.MODULE:FACTORY", with arguments as
    "...:FACTORY,name=value,...".

    The module is imported, from the current directory too: this runs the user's own code, never
    that of a checkpoint. Values read as int, float, true, false or none where they can, else as
    text. Raises BadInput where module, factory or argument is unknown, or what is called fails or
    returns no module.

    >>> model_factory("isthmus.models:preact_resnet,depth=8,classes=3")().linear.out_features
    3
    """
    target, *settings = spec.split(",")
    place, _, name = target.partition(":")
    if not place or not name:
        raise BadInput(
            f"model {spec!r}",
            expected="PKG.MODULE:FACTORY",
            fix="for example isthmus.models:preact_resnet,depth=20",
        )
    pairs = [_setting(spec, text) for text in settings]
    named = dict(pairs)
    if len(named) < len(pairs):
        raise BadInput(
            f"an argument twice in {spec!r}",
            expected="each argument once",
            fix="remove one of the two",
        )
    factory = _factory(place, name)
    _check_arguments(spec, factory, named)
    return partial(_build, spec, factory, named)


def _factory(place: str, name: str) -> Any:
    """Return the callable of this name in a module. Raises BadInput where there is none."""
    module = imported(place)
    factory = getattr(module, name, None)
    if factory is None and "." in name and hasattr(module, name.partition(".")[0]):
        raise BadInput(
            f"{name!r}, a method or an attribute of something in {place}",
            expected="a callable of that module",
            fix="wrap it in a function of your own that builds the network and returns logits",
        )
    if factory is None:
        known = [
            n for n, value in vars(module).items() if callable(value) and not n.startswith("_")
        ]
        raise BadInput(
            f"{name!r}, unknown in {place}",
            expected="a callable of that module",
            fix=suggestion(name, known),
        )
    if isinstance(factory, nn.Module) or not callable(factory):
        raise BadInput(
            f"'{place}:{name}', a {type(factory).__name__}",
            expected="a callable that builds the network",
            fix="wrap it in a function that builds and returns the network",
        )
    return factory
