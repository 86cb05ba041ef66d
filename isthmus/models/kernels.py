"""What the kernels of this CPU cannot do, and what is done instead.

Measured on torch 2.13, whose CPU kernels are oneDNN's: they depend on the instructions of the CPU,
so that a network runs on one machine and not on another.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from torch import nn

from isthmus.runs.devices import kept_draws
from isthmus.runs.notices import notice

_lacking: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
"""Whether this CPU lacks a kernel in bf16 for a network, as asked at its first pass."""


def supported(
    network: nn.Module, device: torch.device, precision: Literal["fp32", "bf16"]
) -> Literal["fp32", "bf16"]:
    """Return the precision in which the network runs on the device: fp32 where bf16 was asked for
    and the CPU has no kernel for one of its layers, which a notice says once for each network.

    An LSTM has none in bf16 without AVX512: torch raises "could not create a primitive descriptor".
    """
    if precision == "fp32" or device.type != "cpu":
        return precision
    if network not in _lacking:
        recurrent = any(isinstance(part, nn.LSTM) for part in network.modules())
        _lacking[network] = recurrent and not _lstm_in_bf16()
        if _lacking[network]:
            notice("this CPU cannot run an LSTM in bf16; its network is computed in fp32")
    return "fp32" if _lacking[network] else "bf16"


def with_kernels(network: nn.Module, device: torch.device) -> AbstractContextManager[object]:
    """Return the context of a pass: bf16 is switched off where the network has no kernels in it."""
    if device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return nullcontext()
    if supported(network, device, "bf16") == "bf16":
        return nullcontext()
    return torch.autocast("cpu", enabled=False)


@cache
def _lstm_in_bf16() -> bool:
    """Return whether this CPU runs a small LSTM in bf16; no draw is used."""
    with kept_draws(torch.device("cpu")), torch.no_grad():
        lstm = nn.LSTM(2, 2)
        try:
            with torch.autocast("cpu", torch.bfloat16):
                lstm(torch.zeros(1, 1, 2))
        except RuntimeError:
            return False
    return True


def overruns(layer: nn.Module) -> bool:
    """Return whether a CPU's kernel writes past a buffer of this layer, channels last.

    AVX2 kernels do in strided 1x1 convolutions of fewer than 6 channels, and the process crashes; 8
    leaves a margin.
    """
    return (
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (1, 1)
        and layer.stride != (1, 1)
        and layer.in_channels // layer.groups < 8
    )
