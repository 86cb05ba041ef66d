"""What a run is recognized by: hashes of tensors, and settings as text that is equal in every
process.
"""

from __future__ import annotations

import hashlib
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import PurePath
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor


def sha256_of(*tensors: Tensor) -> str:
    """Return the hash of the tensors' types, shapes and bytes, in order, wherever they live.

    >>> import torch
    >>> sha256_of(torch.zeros(2)) == sha256_of(torch.zeros(2)) != sha256_of(torch.zeros(1, 2))
    True
    """
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(bytes_of(tensor))
    return digest.hexdigest()


def bytes_of(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor's values in their order, not copied where they lie so.

    >>> bytes(bytes_of(torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8).T))
    b'\\x01\\x03\\x02\\x04'
    """
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def identity_of(value: Any) -> str:
    """Return a value's name and settings as text that is equal in every process: its identity.

    A value that has a `run_identity`, or a `sha256`, is recognized by it. Names are bare:
    moving a class or a function to another module changes no identity.

    >>> identity_of(identity_of), identity_of(PurePath), identity_of(0.5)
    ('identity_of', 'PurePath', '0.5')
    """
    if isinstance(value, type):
        return value.__qualname__
    if not isinstance(value, type) and hasattr(value, "run_identity"):
        return str(value.run_identity)
    if hasattr(value, "sha256"):
        return f"{type(value).__name__}({value.sha256})"
    if isinstance(value, Tensor):
        return sha256_of(value)
    if isinstance(value, PurePath):
        return value.name  # the folder differs from machine to machine
    if isinstance(value, torch.Generator):
        return f"Generator({value.initial_seed()})"
    if is_dataclass(value) and not isinstance(value, type):
        shown = [f"{f.name}={identity_of(getattr(value, f.name))}" for f in fields(value) if f.repr]
        return f"{type(value).__name__}({', '.join(shown)})"
    if isinstance(value, FunctionType):
        return f"{value.__qualname__}{_body(value) if '<' in value.__qualname__ else ''}"
    if isinstance(value, partial):
        parts = (value.func, value.args, value.keywords)
        return f"partial({', '.join(map(identity_of, parts))})"
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(identity_of, value))})"
    if (
        getattr(type(value), "__repr__", None) is object.__repr__
    ):  # it would name an address, another in each process
        held = getattr(value, "__dict__", {})  # one made in C may have none
        return f"{type(value).__qualname__}({identity_of(held)})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {identity_of(v)}" for key, v in value.items()) + "}"
    return repr(value)


def _body(function: FunctionType) -> str:
    """Tell lambdas and inner functions apart, by their bytecode and what they close over."""
    code = function.__code__
    closed = [identity_of(cell.cell_contents) for cell in function.__closure__ or ()]
    digest = hashlib.sha256(code.co_code + repr((code.co_names, closed)).encode())
    digest.update(
        repr([const for const in code.co_consts if not isinstance(const, CodeType)]).encode()
    )
    return f"({digest.hexdigest()[:16]})"
