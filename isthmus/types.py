"""The vocabulary: names for what every layer speaks of, and the one error that a user's input can raise."""

from __future__ import annotations

import hashlib
from dataclasses import fields, is_dataclass
from typing import Any, Protocol

from torch import Tensor, nn

Params = dict[str, Tensor]
"""Parameters (or buffers) by name, as in `nn.Module.named_parameters`."""


class Loss(Protocol):
    """A scalar to be minimised: `(model, x, y) -> ()`; x (n, c, h, w) in [0, 1], y (n,) int64."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, /) -> Tensor: ...


class Attack(Protocol):
    """Adversarial inputs: `(model, x, y) -> x_adv`, of the shape of x and within [0, 1]."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, /) -> Tensor: ...


class Metric(Protocol):
    """A question about one network: `model -> float`. The data it asks about are part of the question."""

    def __call__(self, model: nn.Module, /) -> float: ...


class BadInput(ValueError):
    """Input that cannot be used: says in one line what came, what was expected, and the way out.

    >>> print(BadInput("t = 1.5", expected="0 <= t <= 1", fix="pass a point on the curve"))
    got t = 1.5; expected 0 <= t <= 1; pass a point on the curve
    """

    def __init__(self, got: str, *, expected: str, fix: str) -> None:
        super().__init__(f"got {got}; expected {expected}; {fix}")


def describe(value: Any) -> str:
    """Return a value's name and settings, equal in every process: what a run is recognised by.

    >>> describe(describe), describe(0.5)
    ('isthmus.types.describe', '0.5')
    """
    if hasattr(value, "sha256"):
        return f"{type(value).__name__}({value.sha256})"
    if isinstance(value, Tensor):
        return hashlib.sha256(repr(value.tolist()).encode()).hexdigest()
    if is_dataclass(value) and not isinstance(value, type):
        shown = [f"{f.name}={describe(getattr(value, f.name))}" for f in fields(value) if f.repr]
        return f"{type(value).__name__}({', '.join(shown)})"
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return repr(value)
