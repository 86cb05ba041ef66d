"""What records hold of a path: where a machine keeps its files belongs in none of them."""

from __future__ import annotations

from pathlib import PurePath


def portable(text: str) -> str:
    """Return a text that may be a path, or NAME=PATH, with an absolute path cut to its last name.

    >>> portable("/home/me/data/cifar10"), portable("--data=/home/me/a.npz")
    ('cifar10', '--data=a.npz')
    >>> portable("data/cifar10"), portable("seed=0")
    ('data/cifar10', 'seed=0')
    """
    if PurePath(text).is_absolute():
        return PurePath(text).name
    name, equals, value = text.partition("=")
    return f"{name}={portable(value)}" if equals else text
