"""Where and how a network runs: devices, precision, memory layout, ranks and batches.

No other file names a device, a dtype of computation or a process group.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from isthmus.types import BadInput, logits_of

Precision = Literal["auto", "fp32", "bf16"]
T = TypeVar("T")

# Values that a pass without gradients takes on an accelerator: 2,500 colour images of 32x32, or 51 of ImageNet.
_PASS_VALUES = 2500 * 3 * 32 * 32
# On a CPU a pass of more than 150 such images takes twice the time for each: what its layers return is larger than the
# 32 MB beyond which the C library maps fresh pages at every allocation (docs/experiments.md, what a step costs).
_CPU_PASS_VALUES = 150 * 3 * 32 * 32


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


def chosen_precision(device: torch.device, precision: Precision) -> Literal["fp32", "bf16"]:
    """Return the precision asked for, with `auto` resolved for the device. Raises BadInput where it is unknown."""
    if precision not in ("auto", "fp32", "bf16"):
        raise BadInput(f"precision {precision!r}", expected="auto, fp32 or bf16", fix="pass one of these")
    return fast_precision(device) if precision == "auto" else precision


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """Return the context in which a forward pass runs at the given precision."""
    enabled = chosen_precision(device, precision) == "bf16"
    context: AbstractContextManager[None] = torch.autocast(device.type, torch.bfloat16, enabled=enabled)
    return context


def as_input(x: Tensor, device: torch.device, *, channels_last: bool) -> Tensor:
    """Return images (n, c, h, w) as a network takes them: float in [0, 1], on the device, in the layout asked."""
    x = x.to(device, non_blocking=True)
    x = x.float() / 255 if x.dtype == torch.uint8 else x
    return x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


@torch.no_grad()
def takes_channels_last(module: nn.Module, x: Tensor) -> bool:
    """Return whether the network bears images laid out channels last, the faster way, by trying two.

    A forward pass that calls `view` where it might have called `reshape` does not.
    """
    try:
        with eval_mode(module):
            module(as_input(x[:2], device_of(module), channels_last=True))
    except Exception as error:  # any other than this one is for the real pass to raise
        return "view size is not compatible" not in str(error)
    return True


def set_channels_last(module: nn.Module, on: bool) -> None:
    """Lay the weights of two-dimensional convolutions out as the images are, or back as they were."""
    for p in module.parameters():
        if p.ndim == 4:
            p.data = p.data.contiguous(memory_format=torch.channels_last if on else torch.contiguous_format)


@contextmanager
def laid_out(module: nn.Module, x: Tensor) -> Iterator[bool]:
    """Run a block with the weights laid out channels last where the network bears it; yield whether it does.

    Worth it where a network meets images like x more than a few times. The usual layout is put back afterwards.
    """
    last = takes_channels_last(module, x)
    set_channels_last(module, last)
    try:
        yield last
    finally:
        set_channels_last(module, False)


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[nn.Module]:
    """Run a block with every submodule in eval mode; put back each submodule's own mode afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield module
    finally:
        module.train(modes[0][1])  # a curve's network is not among its modules; it hears of the mode in this way alone
        for part, training in modes:
            part.training = training


@contextmanager
def frozen(module: nn.Module) -> Iterator[nn.Module]:
    """Run a block in eval mode with no parameter requiring gradients, so that only gradients of the input are computed.

    Each parameter's own flag and each submodule's own mode are put back afterwards.
    """
    flags = [(p, p.requires_grad) for p in module.parameters()]
    for p, _ in flags:
        p.requires_grad_(False)
    try:
        with eval_mode(module):
            yield module
    finally:
        for p, required in flags:
            p.requires_grad_(required)


def pass_size(x: Tensor, device: torch.device, *, gradients: bool = False) -> int:
    """Return how many samples shaped like those of x (n, ...) one pass takes; with gradients it keeps activations."""
    values = _CPU_PASS_VALUES if device.type == "cpu" else _PASS_VALUES // (8 if gradients else 1)
    return max(1, values // max(1, x[0].numel()))


@torch.no_grad()
def outputs(module: nn.Module, x: Tensor, *, batch_size: int | None = None, precision: Precision = "fp32") -> Tensor:
    """Return the network's outputs on x (n, c, h, w), in eval mode, as float32 on the CPU.

    Raises BadInput where they are no tensor.
    """
    device, last = device_of(module), takes_channels_last(module, x)
    size = batch_size or pass_size(x, device)
    with eval_mode(module), autocast(device, precision):
        parts = (as_input(part, device, channels_last=last) for part in x.split(size))
        return torch.cat([logits_of(module(part)).float().cpu() for part in parts])


@contextmanager
def several_samples() -> Iterator[None]:
    """Run a block in which BatchNorm takes statistics. Raises BadInput where a batch is too small to have any."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise BadInput(
            "a batch of one sample, in a network with BatchNorm",
            expected="two samples or more at once",
            fix="raise batch_size (--batch-size), or give more samples",
        ) from error


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


def share_from_first(tensors: Iterable[Tensor]) -> None:
    """Give every rank the first one's values, in place; a no-op for one process."""
    if ranks().world > 1:
        for tensor in tensors:
            dist.broadcast(tensor.data, 0)


def average(tensors: Sequence[Tensor]) -> None:
    """Replace tensors by their means over the ranks, in place and in one exchange; a no-op for one process."""
    if ranks().world > 1:
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors]) / ranks().world
        dist.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view(tensor.shape))


def gathered(value: T) -> list[T]:
    """Return every rank's value, in order of rank."""
    values: list[T] = [value] * ranks().world
    if ranks().world > 1:
        dist.all_gather_object(values, value)
    return values


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Run a block together with the other processes of a `torchrun` launch; alone outside one.

    A process joins once and leaves when it ends: the ranks of one launch cannot meet a second time. The block that
    joined ends for all ranks at once, since a connection that one side has left can bring the other down.
    """
    joins = int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized()
    if joins:
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        atexit.register(dist.destroy_process_group)
    yield ranks()
    if joins:  # not where the block raised: another rank may never come
        dist.barrier()
