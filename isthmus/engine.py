"""Where and how a network runs: devices, precision, memory layout, ranks and batches.

No other file names a device, a dtype of computation or a process group.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from isthmus.types import BadInput

Precision = Literal["auto", "fp32", "bf16"]

# A batch without gradients holds about as many values as 2,500 colour images of 32x32: the whole of a bonafide set
# at the sizes of the literature, and 51 images of ImageNet.
_PASS_VALUES = 2500 * 3 * 32 * 32


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
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BadInput(
            f"device {str(name)!r}", expected="a device of this machine", fix="pass cpu, cuda, cuda:1, mps or auto"
        ) from error
    return device


def device_of(module: nn.Module) -> torch.device:
    """Return the device that holds the module's first parameter or buffer; the CPU where it has none."""
    for tensor in [*module.parameters(), *module.buffers()]:
        return tensor.device
    return torch.device("cpu")


def fast_precision(device: torch.device) -> Literal["fp32", "bf16"]:
    """Return the precision that `auto` stands for: bf16 where the hardware multiplies it natively, else fp32."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    if device.type == "cpu":
        features = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return "bf16" if features.get("avx512_bf16") or features.get("amx_bf16") else "fp32"
    return "fp32"


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """Return the context in which a forward pass runs at the given precision."""
    chosen = fast_precision(device) if precision == "auto" else precision
    if chosen not in ("fp32", "bf16"):
        raise BadInput(f"precision {precision!r}", expected="auto, fp32 or bf16", fix="pass one of these")
    context: AbstractContextManager[None] = torch.autocast(device.type, torch.bfloat16, enabled=chosen == "bf16")
    return context


def as_input(x: Tensor, device: torch.device) -> Tensor:
    """Return images as a network takes them: float in [0, 1] on the device, channels last where they have channels."""
    x = x.to(device, non_blocking=True)
    x = x.float() / 255 if x.dtype == torch.uint8 else x
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[nn.Module]:
    """Run a block with every submodule in eval mode; put back each submodule's own mode afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield module
    finally:
        for part, training in modes:
            part.training = training


def pass_size(x: Tensor) -> int:
    """Return how many samples shaped like those of x (n, ...) one pass without gradients takes."""
    return max(1, _PASS_VALUES // max(1, x[0].numel()))


@torch.no_grad()
def outputs(module: nn.Module, x: Tensor, *, batch_size: int | None = None, precision: Precision = "fp32") -> Tensor:
    """Return the network's outputs on x (n, c, h, w), in eval mode, as float32 on the CPU."""
    device, size = device_of(module), batch_size or pass_size(x)
    with eval_mode(module), autocast(device, precision):
        return torch.cat([module(as_input(part, device)).float().cpu() for part in x.split(size)])


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run: its rank, the number of processes, its index on its machine."""

    rank: int = 0
    world: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes files and speaks to the user."""
        return self.rank == 0


def ranks() -> Ranks:
    """Return this process's place; (0, 1, 0) outside `torchrun`."""
    if not (dist.is_available() and dist.is_initialized()):
        return Ranks()
    return Ranks(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", 0)))


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Join the other processes of a `torchrun` launch for the length of a block; a no-op outside one."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or dist.is_initialized():
        yield ranks()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield ranks()
    finally:
        dist.destroy_process_group()
