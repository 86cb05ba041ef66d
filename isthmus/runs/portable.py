"""What records hold of a path: where a machine keeps its files belongs in none of them."""

from __future__ import annotations

from pathlib import PurePath

LEFT_OUT = ".../"
"""What stands for the folders of an absolute path in a command line: no path that a shell finds."""


def portable(text: str, left_out: str = "") -> str:
    """Return a text that may be a path, or NAME=PATH, with an absolute path cut to its last name,
    after what stands for the folders that are left out.

    >>> portable("/home/me/data/cifar10"), portable("--data=/home/me/a.npz")
    ('cifar10', '--data=a.npz')
    >>> portable("data/cifar10"), portable("seed=0")
    ('data/cifar10', 'seed=0')
    """
    if PurePath(text).is_absolute():
        return f"{left_out}{PurePath(text).name}"
    name, equals, value = text.partition("=")
    return f"{name}={portable(value, left_out)}" if equals else text
