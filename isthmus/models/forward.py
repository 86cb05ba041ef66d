"""How a network is called: inputs, memory layout, modes, pass sizes, logits.

No other file lays images out for a network or decides how many of them one pass takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from isthmus.runs.devices import Precision, autocast
from isthmus.types import BadInput

# Values that a pass without gradients takes on an accelerator: 2,500 color images of 32x32, or 51
# of ImageNet.
_PASS_VALUES = 2500 * 3 * 32 * 32


# On a CPU a pass of more than 150 such images takes twice the time for each: what its layers return
# is larger than the 32 MB beyond which the C library maps fresh pages at every allocation
# (docs/experiments.md, what a step costs).
_CPU_PASS_VALUES = 150 * 3 * 32 * 32


def precise_logits(model: nn.Module, x: Tensor) -> Tensor:
    """Return the model's logits at x, (n, classes), with their graph, in float32 or better.

    Raises BadInput where the model returns anything else.
    """
    logits = logits_of(model(x))
    if logits.ndim != 2 or len(logits) != len(x):
        raise BadInput(
            f"outputs of shape {tuple(logits.shape)}",
            expected=f"({len(x)}, classes)",
            fix="pass a classifier",
        )
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def device_of(module: nn.Module) -> torch.device:
    """Return the device that holds the module's first parameter or buffer; the CPU where it has
    none.
    """
    for tensor in [*module.parameters(), *module.buffers()]:
        return tensor.device
    return torch.device("cpu")


def as_input(x: Tensor, device: torch.device, *, channels_last: bool) -> Tensor:
    """Return images (n, c, h, w) as a network takes them: float in [0, 1], on the device, in the
    layout asked.
    """
    x = x.to(device, non_blocking=True)
    x = x.float() / 255 if x.dtype == torch.uint8 else x
    return x.contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )


@torch.no_grad()
def takes_channels_last(module: nn.Module, x: Tensor) -> bool:
    """Return whether the network bears images laid out channels last, the faster way, by trying
    two.

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
            p.data = p.data.contiguous(
                memory_format=torch.channels_last if on else torch.contiguous_format
            )


@contextmanager
def laid_out(module: nn.Module, x: Tensor) -> Iterator[bool]:
    """Run a block with the weights laid out channels last where the network bears it; yield whether
    it does.

    Worth it where a network meets images like x more than a few times. The usual layout is put back
    afterwards."""
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
        module.train(
            modes[0][1]
        )  # a curve's network is not among its modules; it hears of the mode in this way alone
        for part, training in modes:
            part.training = training


@contextmanager
def frozen(module: nn.Module) -> Iterator[nn.Module]:
    """Run a block in eval mode with no parameter requiring gradients, so that only gradients of the
    input are computed.

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
    """Return how many samples shaped like those of x (n, ...) one pass takes; with gradients it
    keeps activations.
    """
    values = _CPU_PASS_VALUES if device.type == "cpu" else _PASS_VALUES // (8 if gradients else 1)
    return max(1, values // max(1, x[0].numel()))


@torch.no_grad()
def outputs(
    module: nn.Module, x: Tensor, *, batch_size: int | None = None, precision: Precision = "fp32"
) -> Tensor:
    """Return the network's outputs on x (n, c, h, w), in eval mode, as float32 on the CPU.

    Raises BadInput where they are no tensor.
    """
    device, last = device_of(module), takes_channels_last(module, x)
    size = batch_size or pass_size(x, device)
    with eval_mode(module), autocast(device, precision):
        parts = (as_input(part, device, channels_last=last) for part in x.split(size))
        return torch.cat([logits_of(module(part)).float().cpu() for part in parts])


@contextmanager
def explain_single_sample_batch() -> Iterator[None]:
    """Run a block in which BatchNorm takes statistics. Raises BadInput where a batch is too small
    to have any.
    """
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


def logits_of(out: object) -> Tensor:
    """Return what a network returned. Raises BadInput where that is no tensor.

    >>> logits_of((torch.zeros(1), torch.zeros(1)))
    Traceback (most recent call last):
    isthmus.types.BadInput: got a network that returns a tuple; expected logits; wrap it to return them
    """
    if not isinstance(out, Tensor):
        raise BadInput(
            f"a network that returns a {type(out).__name__}",
            expected="logits",
            fix="wrap it to return them",
        )
    return out
