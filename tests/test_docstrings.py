"""Everything public says what it does: each class, function, method and property of the package.

An override may leave it to the docstring of what it overrides."""

import inspect
import pkgutil
from functools import cached_property
from importlib import import_module

import pytest

import isthmus

MODULES = [
    module.name
    for module in pkgutil.walk_packages(isthmus.__path__, "isthmus.")
    if not module.name.endswith("__main__")
]


def members(owner, prefix):
    """Return what a class defines under public names, by its full name."""
    for name, member in vars(owner).items():
        if name.startswith("_"):
            continue
        plain = inspect.unwrap(getattr(member, "__func__", member))
        if inspect.isfunction(plain) or isinstance(member, property | cached_property):
            yield f"{prefix}.{name}", getattr(owner, name)


def public(module):
    """Return the public classes and functions that a module defines, with the classes' members."""
    for name, value in vars(module).items():
        own = getattr(value, "__module__", None) == module.__name__
        if name.startswith("_") or not own:
            continue
        if inspect.isclass(value):
            yield f"{module.__name__}.{name}", value
            yield from members(value, f"{module.__name__}.{name}")
        elif inspect.isfunction(inspect.unwrap(value)):
            yield f"{module.__name__}.{name}", value


@pytest.mark.parametrize("name", MODULES)
def test_everything_public_has_a_docstring(name):
    module = import_module(name)
    assert module.__doc__, f"{name} does not say what it holds"
    silent = [full for full, value in public(module) if not own_words(value)]
    assert silent == []


def own_words(value):
    """Return the docstring, or what it overrides has; a dataclass's made-up signature is none."""
    text = inspect.getdoc(value) or ""
    made_up = inspect.isclass(value) and text.startswith(f"{value.__name__}(")
    return "" if made_up else text
