"""The version of the package, and of what computes beside it."""

from __future__ import annotations

__version__ = "0.1.0"


def versions() -> dict[str, str]:
    """Return the versions of isthmus, torch, python and numpy, without importing them.

    >>> sorted(versions())
    ['isthmus', 'numpy', 'python', 'torch']
    """
    import platform  # this and the next take longer to import than the help page to print
    from importlib.metadata import version

    installed = {name: version(name) for name in ("torch", "numpy")}
    return {"isthmus": __version__, "python": platform.python_version(), **installed}
