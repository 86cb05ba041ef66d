"""How a network is called: inputs, memory layout, modes, pass sizes, logits.

No other file lays images out for a network or decides how many of them one pass takes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, TypeVar, overload
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from isthmus.models.kernels import overruns, supported, with_kernels
from isthmus.models.memory import in_passes, out_of_memory, recomputed_in_parts, too_large
from isthmus.runs.devices import Precision, autocast, chosen_precision, kept_draws
from isthmus.runs.wording import first_line
from isthmus.types import BadInput

T = TypeVar("T")

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
    logits = logits_of(forward_pass(model, x))
    if logits.ndim != 2 or len(logits) != len(x):
        raise BadInput(
            f"outputs of shape {tuple(logits.shape)}",
            expected=f"({len(x)}, classes)",
            fix="pass a classifier: one row of logits for each sample",
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
    """Return images (n, c, h, w) as floats in [0, 1], on the device, in the given memory layout.

    Bytes and half precision become float32; float64 stays. The result may share memory with x: call
    the network through `forward_pass`, which copies where the network writes into its input.
    """
    x = x.to(device, non_blocking=True)
    if x.dtype == torch.uint8:
        x = x.float() / 255
    elif x.element_size() < 4:
        x = x.float()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return x.contiguous(memory_format=layout)


class Wrapper(nn.Module):
    """A module whose forward prepares the input of another network, `inner`, and runs that."""

    @property
    def inner(self) -> nn.Module:
        """The network that is called."""
        raise NotImplementedError


def network_under(module: nn.Module) -> nn.Module:
    """Return the network that a wrapper calls in the end; another module as it is."""
    while isinstance(module, Wrapper):
        module = module.inner
    return module


def computing_type(network: nn.Module) -> torch.dtype:
    """Return the floating-point type of a network's first weight, in which it takes its input.

    A module that runs another one, as a curve does, says that one's type as its `computing_type`.
    """
    own = getattr(network, "computing_type", None)
    if isinstance(own, torch.dtype):
        return own
    for tensor in itertools.chain(network.parameters(), network.buffers()):
        if tensor.is_floating_point() and tensor.element_size() > 1:
            return tensor.dtype
    return torch.float32


def pass_precision(
    module: nn.Module, device: torch.device, precision: Precision
) -> Literal["fp32", "bf16"]:
    """Return the precision of a pass through a network, with `auto` resolved for the device.

    Half and double networks compute in their own type, which autocast would mix with another. bf16
    is fp32 where the CPU lacks a kernel for it (`isthmus.models.kernels`). Raises BadInput where
    the precision is unknown.
    """
    if precision == "auto" and computing_type(module) != torch.float32:
        precision = "fp32"
    return supported(network_under(module), device, chosen_precision(device, precision))


_writes: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
"""Whether a network changes its input in place, as its first pass has shown."""


@contextmanager
def reading(x: Tensor) -> Iterator[None]:
    """Run a block in which a network reads images x (n, c, h, w). Raises BadInput where it cannot;
    memory that ran out is left to a caller, who may halve the pass.
    """
    try:
        yield
    except BadInput:
        raise
    except Exception as error:  # a user's network may raise anything
        if out_of_memory(error):
            raise
        raise BadInput(
            f"images of shape {tuple(x.shape[1:])} and type {x.dtype} that the network cannot read "
            f"({type(error).__name__}: {first_line(error)})",
            expected="the shape and type it was built for",
            fix="convert the images, or check the model factory (its channels are in_chans= in "
            "timm:NAME,in_chans=1)",
        ) from error


def forward_pass(module: nn.Module, x: Tensor) -> Any:
    """Return what the network returns at x, floats (n, c, h, w), and leave x as it is.

    x is cast to the type that the network computes in; a network that changes its input in place
    gets a copy. Within `largest_pass`, a larger batch is passed in parts, and what is returned are
    its logits.
    """
    if too_large(x):
        return recomputed_in_parts(
            network_under(module), lambda part: logits_of(forward_pass(module, part)), x
        )
    if isinstance(module, Wrapper):  # does the same by itself
        return module(x)
    return prepared_pass(module, module, x)


def prepared_pass(
    network: nn.Module, run: Callable[..., Any], x: Tensor, *inputs: Any, **named: Any
) -> Any:
    """Return run(x, ...), a pass through the network, on a cast or a copy of x where it takes one.

    The first pass gets a copy, and its version counter tells whether later ones need one. A network
    that this CPU cannot run in bf16 runs in fp32.
    """
    with with_kernels(network, x.device):
        if not x.is_floating_point():
            return run(x, *inputs, **named)
        given = x.to(computing_type(network))
        writes = _writes.get(network)
        if writes is False:
            return run(given, *inputs, **named)
        if given is x:
            given = x.clone()
        if writes or given.is_inference():  # which has no version
            return run(given, *inputs, **named)
        version = given._version
        out = run(given, *inputs, **named)
        _writes[network] = given._version != version
        return out


_channels_last: WeakKeyDictionary[nn.Module, dict[tuple[torch.device, torch.dtype], bool]]
_channels_last = WeakKeyDictionary()


def takes_channels_last(module: nn.Module, x: Tensor) -> bool:
    """Return whether the forward pass accepts channels-last input, which is faster.

    A forward pass that calls `view` where it might have called `reshape` does not. Decided by
    running the network on two images, at its first call, and remembered; no draw is used. A network
    that runs on neither layout is taken to accept both: its error is for the real pass to raise.
    """
    if x.ndim != 4:
        return False
    network = network_under(module)
    device = device_of(module)
    if device.type == "cpu" and any(map(overruns, network.modules())):
        return False
    known = _channels_last.setdefault(network, {})
    key = (device, computing_type(network))
    if key not in known:
        images = as_input(x[:2].detach(), device, channels_last=False)
        accepts = _runs(module, images.contiguous(memory_format=torch.channels_last))
        if not accepts and not _runs(module, images):
            return True
        known[key] = accepts
    return known[key]


@torch.no_grad()
def _runs(module: nn.Module, images: Tensor) -> bool:
    """Return whether the network runs on the images, in eval mode; no draw is used."""
    with kept_draws(images.device), eval_mode(module):
        try:
            forward_pass(module, images)
        except Exception:  # a user's network may raise anything; the real pass reports it
            return False
    return True


def set_channels_last(module: nn.Module, on: bool) -> None:
    """Lay the weights of two-dimensional convolutions out channels last, or back as they were."""
    for p in module.parameters():
        if p.ndim == 4:
            p.data = p.data.contiguous(
                memory_format=torch.channels_last if on else torch.contiguous_format
            )


@contextmanager
def laid_out(module: nn.Module, x: Tensor) -> Iterator[bool]:
    """Run a block with the weights laid out channels last where the network accepts that; yield
    whether it does.

    Worth it where a network runs on images like x more than a few times. The usual layout is put
    back afterward.
    """
    last = takes_channels_last(module, x)
    set_channels_last(module, last)
    try:
        yield last
    finally:
        set_channels_last(module, False)


@contextmanager
def placed(module: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """Run a block with the module on a device; put it back on its own afterward.

    For work on a network that belongs to a caller.
    """
    own = device_of(module)
    try:
        yield module.to(device)
    finally:
        module.to(own)


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[nn.Module]:
    """Run a block with every submodule in eval mode; put each one's own mode back afterward."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield module
    finally:
        # A curve's network is not among its modules: only `train` tells it the mode.
        module.train(modes[0][1])
        for part, training in modes:
            part.training = training


@contextmanager
def frozen(module: nn.Module) -> Iterator[nn.Module]:
    """Run a block in eval mode with no parameter requiring gradients, so that only gradients of the
    input are computed.

    Each parameter's own flag and each submodule's own mode are put back afterward.
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
    return max(1, values // max(1, x.shape[1:].numel()))


@torch.no_grad()
def outputs(
    module: nn.Module, x: Tensor, *, batch_size: int | None = None, precision: Precision = "fp32"
) -> Tensor:
    """Return the network's outputs on x (n, c, h, w), in eval mode, as float32 on the CPU.

    Passes are halved where memory runs out. Raises BadInput where the outputs are not a tensor.
    """
    device = device_of(module)
    last = takes_channels_last(module, x)
    size = batch_size or pass_size(x, device)
    answers = _Answers(len(x))

    def answer(rows: slice) -> None:
        part = as_input(x[rows], device, channels_last=last)
        answers.put(rows, logits_of(forward_pass(module, part)).float().cpu())

    with eval_mode(module), autocast(device, precision):
        in_passes(module, answer, len(x), size)
    return answers.all()


class _Answers:
    """Outputs of passes in one tensor, which is made at the first.

    A small tensor for each pass would stay among the large ones that layers leave to the
    allocator, which then could not use their room again: memory grew with the number of images.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.rows: Tensor | None = None
        self.odd: list[Tensor] = []  # not one row an image; left to those who check shapes

    def put(self, rows: slice, part: Tensor) -> None:
        if self.rows is None:
            self.rows = part.new_empty((self.count, *part.shape[1:]))
        if part.shape == self.rows[rows].shape:
            self.rows[rows] = part
        else:
            self.odd.append(part)

    def all(self) -> Tensor:
        if self.rows is None or self.odd:
            return torch.cat(self.odd)
        return self.rows


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
    """Return the logits in what a network returned: a tensor, the `logits` of a dict or an object,
    or the one tensor with two dimensions in a tuple or list. Raises BadInput where there are none.

    >>> logits_of({"logits": torch.ones(1), "features": torch.zeros(3)})
    tensor([1.])
    >>> logits_of((torch.zeros(()), torch.ones(1, 2)))
    tensor([[1., 1.]])
    >>> logits_of((torch.zeros(1, 2), torch.zeros(1, 2)))
    Traceback (most recent call last):
    isthmus.types.BadInput: got a network that returns a tuple; expected logits; wrap it ...
    """
    logits = logits_in(out)
    if logits is None:
        raise BadInput(
            f"a network that returns a {type(out).__name__}",
            expected="logits",
            fix="wrap it to return them",
        )
    return logits


@overload
def logits_in(out: object) -> Tensor | None: ...


@overload
def logits_in(out: object, kind: type[T]) -> T | None: ...


def logits_in(out: object, kind: type[Any] = Tensor) -> Any:
    """Return the logits in what a network returned, as `logits_of` does, or None.

    `kind` is what logits are: tensors, or what stands for them where a network is given something
    else (bounds of values).
    """
    held = out
    if isinstance(out, Mapping):
        held = out.get("logits")
    elif hasattr(out, "logits"):
        held = out.logits
    elif isinstance(out, (tuple, list)):
        flat = [part for part in out if isinstance(part, kind) and len(part.shape) == 2]
        held = flat[0] if len(flat) == 1 else None
    return held if isinstance(held, kind) else None
