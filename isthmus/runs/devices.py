"""Devices and the precision of computation."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Literal

import torch

from isthmus.runs.processes import ranks
from isthmus.types import BadInput

Precision = Literal["auto", "fp32", "bf16"]


def pick_device(name: str | torch.device | None = None) -> torch.device:
    """Return the named device; without a name, the rank's GPU where there is one, else the CPU.

    Raises BadInput where the device is unknown or not on this machine.
    """
    if name is None or name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", ranks().local)
        return torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).item()  # no values can be had of "meta"
    except (RuntimeError, AssertionError) as error:
        raise BadInput(
            f"device {str(name)!r}",
            expected="a device of this machine",
            fix="pass cpu, cuda, cuda:1, mps or auto",
        ) from error
    return device


def kept_draws(device: torch.device) -> AbstractContextManager[None]:
    """Return a block after which torch's generators, also the device's, stand where they stood."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def fast_precision(device: torch.device) -> Literal["fp32", "bf16"]:
    """Return the precision that the hardware offers as its fast one: bf16 where it multiplies it
    natively, else fp32.

    Whether a network is faster in it is another question, see `isthmus.models.decided_precision`.

    The environment variable ISTHMUS_PRECISION (fp32 or bf16) stands in for what the hardware
    offers, so that either answer can be had on any machine; empty counts as not set. Raises
    BadInput where it holds anything else.
    """
    told = told_precision()
    if told is not None:
        return told
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    if device.type == "cpu":
        features = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return "bf16" if features.get("avx512_bf16") or features.get("amx_bf16") else "fp32"
    return "fp32"


def told_precision() -> Literal["fp32", "bf16"] | None:
    """Return the precision in ISTHMUS_PRECISION, None where it is not set.

    Raises BadInput where it holds anything but fp32 or bf16.
    """
    told = os.environ.get("ISTHMUS_PRECISION")
    return _native(told) if told else None


def _native(name: str) -> Literal["fp32", "bf16"]:
    if name == "fp32":
        return "fp32"
    if name == "bf16":
        return "bf16"
    raise BadInput(
        f"ISTHMUS_PRECISION={name}",
        expected="fp32 or bf16",
        fix="unset it, and the hardware decides",
    )


def chosen_precision(device: torch.device, precision: Precision) -> Literal["fp32", "bf16"]:
    """Return the given precision, with `auto` resolved for the device.

    Raises BadInput where it is unknown.
    """
    if precision not in ("auto", "fp32", "bf16"):
        raise BadInput(
            f"precision {precision!r}",
            expected="auto, fp32 or bf16",
            fix="pass precision='auto' (--precision auto)",
        )
    return fast_precision(device) if precision == "auto" else precision


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """Return the context in which a forward pass runs at the given precision."""
    enabled = chosen_precision(device, precision) == "bf16"
    context: AbstractContextManager[None] = torch.autocast(
        device.type, torch.bfloat16, enabled=enabled
    )
    return context


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Return how long work takes on a device, from an idle device until it is done.

    >>> seconds_of(lambda: None, torch.device("cpu")) < 1
    True
    """
    _wait_for(device)
    began = time.perf_counter()
    work()
    _wait_for(device)
    return time.perf_counter() - began


def _wait_for(device: torch.device) -> None:
    """Wait until a device that takes work in advance has done it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
