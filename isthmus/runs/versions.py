"""The version of the package, and of what computes beside it."""

from __future__ import annotations

import platform
from importlib.metadata import version

__version__ = "0.1.0"


def versions() -> dict[str, str]:
    """Return the versions of isthmus, torch, python and numpy, without importing them.

    >>> sorted(versions())
    ['isthmus', 'numpy', 'python', 'torch']
    """
    installed = {name: version(name) for name in ("torch", "numpy")}
    return {"isthmus": __version__, "python": platform.python_version(), **installed}
