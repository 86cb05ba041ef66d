"""The vocabulary: names for what every layer speaks of, and the one error that a user's input can raise."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import PurePath
from types import CodeType, FunctionType
from typing import Any, Protocol

import torch
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


class Trigger(Protocol):
    """A change of images: x (n, c, h, w) float in [0, 1] to the same shape and range."""

    def __call__(self, x: Tensor, /) -> Tensor: ...


class Defense(Protocol):
    """A way to a network that can be trusted again: `(tampered, bonafide) -> repaired`, in eval mode.

    `bonafide` is whatever `as_data` takes. The tampered network is left as it is; no trigger is ever seen.
    """

    def __call__(self, tampered: nn.Module, bonafide: Any, /) -> nn.Module: ...


class BadInput(ValueError):
    """Input that cannot be used: says in one line what came, what was expected, and the way out.

    >>> print(BadInput("t = 1.5", expected="0 <= t <= 1", fix="pass a point on the curve"))
    got t = 1.5; expected 0 <= t <= 1; pass a point on the curve
    """

    def __init__(self, got: str, *, expected: str, fix: str) -> None:
        super().__init__(f"got {got}; expected {expected}; {fix}")


def closest(word: str, known: Iterable[str]) -> str:
    """Return the way out of an unknown word: the known words near it, else the first few of them.

    >>> closest("cifar", ["digits", "cifar10"]), closest("x", ["digits", "cifar10"]), closest("x", [])
    ('did you mean cifar10?', 'choose one of cifar10, digits', 'check the spelling')
    """
    known = sorted(set(known))
    near = get_close_matches(word, known, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return (
        f"choose one of {', '.join(known[:12])}{', ...' if len(known) > 12 else ''}" if known else "check the spelling"
    )


def logits_of(out: object) -> Tensor:
    """Return what a network returned. Raises BadInput where that is no tensor.

    >>> logits_of((torch.zeros(1), torch.zeros(1)))
    Traceback (most recent call last):
    isthmus.types.BadInput: got a network that returns a tuple; expected logits; wrap it to return them
    """
    if not isinstance(out, Tensor):
        raise BadInput(
            f"a network that returns a {type(out).__name__}", expected="logits", fix="wrap it to return them"
        )
    return out


def percent(share: float) -> str:
    """Return a share in percent, with as many decimals as it takes not to claim all or nothing wrongly.

    A space that does not break stands before the sign.

    >>> [percent(p).replace("\u00a0", " ") for p in (0.8412, 1.0, 0.9998, 0.0)]
    ['84.1 %', '100.0 %', '99.98 %', '0.0 %']
    """
    digits = next((d for d in (1, 2, 3) if 0 < round(100 * share, d) < 100), 1)
    return f"{100 * share:.{digits}f}\u00a0%"


def some(names: Iterable[str], limit: int = 3) -> str:
    """Return the first few names and how many more there are."""
    listed = sorted(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, its name where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def sha256_of(*tensors: Tensor) -> str:
    """Return the hash of the tensors' types, shapes and bytes, in order, wherever they live.

    >>> import torch
    >>> sha256_of(torch.zeros(2)) == sha256_of(torch.zeros(2)) != sha256_of(torch.zeros(1, 2))
    True
    """
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)};".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def describe(value: Any) -> str:
    """Return a value's name and settings, equal in every process: what a run is recognised by.

    >>> describe(describe), describe(0.5)
    ('isthmus.types.describe', '0.5')
    """
    if hasattr(value, "sha256"):
        return f"{type(value).__name__}({value.sha256})"
    if isinstance(value, Tensor):
        return sha256_of(value)
    if isinstance(value, PurePath):
        return value.name  # where a folder lies is the machine's affair
    if isinstance(value, torch.Generator):
        return f"Generator({value.initial_seed()})"
    if is_dataclass(value) and not isinstance(value, type):
        shown = [f"{f.name}={describe(getattr(value, f.name))}" for f in fields(value) if f.repr]
        return f"{type(value).__name__}({', '.join(shown)})"
    if isinstance(value, FunctionType):
        return f"{value.__module__}.{value.__qualname__}{_body(value) if '<' in value.__qualname__ else ''}"
    if isinstance(value, partial):
        return f"partial({describe(value.func)}, {describe(value.args)}, {describe(value.keywords)})"
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(describe, value))})"
    if getattr(type(value), "__repr__", None) is object.__repr__:  # it would name an address, another in each process
        held = getattr(value, "__dict__", {})  # one made in C may have none
        return f"{type(value).__module__}.{type(value).__qualname__}({describe(held)})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {describe(each)}" for key, each in value.items()) + "}"
    return repr(value)


def _body(function: FunctionType) -> str:
    """Tell functions without a name of their own apart, by what they do and what they close over."""
    code = function.__code__
    closed = [describe(cell.cell_contents) for cell in function.__closure__ or ()]
    digest = hashlib.sha256(code.co_code + repr((code.co_names, closed)).encode())
    digest.update(repr([const for const in code.co_consts if not isinstance(const, CodeType)]).encode())
    return f"({digest.hexdigest()[:16]})"
