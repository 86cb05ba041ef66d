"""Work that runs out of memory is done in smaller parts.

Passes without gradients are halved (`in_passes`), and give what they gave. Of a pass with gradients
the parts, also those of `Training.microbatch`, are computed again during the backward pass
(`recomputed_in_parts`, activation checkpointing), so a loss sees the outputs of the whole batch,
whatever it does with them; only BatchNorm in train mode takes its statistics from each part.

Source: Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from isthmus.runs.draws import random_state, set_random_state
from isthmus.runs.notices import notice
from isthmus.runs.processes import ranks
from isthmus.types import BadInput

T = TypeVar("T")

_SIGNS = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "ALLOC_FAILED",
    "bad_alloc",
)
"""What the messages of errors hold that have no type of their own, as those of torch's CPU
allocator."""

_most: WeakKeyDictionary[object, int] = WeakKeyDictionary()
"""How many samples a pass of a network, or of a detector without one, takes at most, where memory
has run out."""

_with_gradients: ContextVar[int | None] = ContextVar(
    "samples of a pass with gradients", default=None
)


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, on a CPU or on an accelerator.

    >>> out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ..."))
    True
    >>> out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    False
    """
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def attempted(work: Callable[[], T]) -> tuple[T | None, bool]:
    """Return what work returns and True, or None and False where memory runs out.

    What the failed work held is free again. Other errors pass.
    """
    try:
        return work(), True
    except Exception as error:
        if not out_of_memory(error):
            raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None, False


def half_of(samples: int, what: str = "a pass") -> int:
    """Return half as many samples as ran out of memory, and tell of it.

    Raises BadInput where there is nothing to halve.
    """
    if samples < 2:
        raise BadInput(
            f"a network that runs out of memory on one sample in {what}",
            expected="room for one",
            fix="free memory, resize the images (--resize), or use another device",
        )
    less = ceil(samples / 2)
    notice(f"memory ran out at {samples:,} samples in {what}: {less:,} at a time from here on")
    return less


def in_passes(worker: object, work: Callable[[slice], T], count: int, size: int) -> list[T]:
    """Return work(rows) for slices of up to `size` rows that make up `count`, in order.

    Where memory runs out, slices are halved, from then on for this worker: the network, or what
    does without one. Raises BadInput where one row is too many.
    """
    results: list[T] = []
    first = 0
    while first < count:
        taken = min(size, _most.get(worker, size), count - first)
        rows = slice(first, first + taken)
        result, enough = attempted(lambda rows=rows: work(rows))  # type: ignore[misc]
        if enough:
            results.append(result)  # type: ignore[arg-type]
            first += taken
        else:
            _most[worker] = half_of(taken)
    return results


@dataclass
class GradientPasses:
    """Steps that take gradients, in passes as large as memory allows: `most` samples, once it has
    run out.
    """

    most: int | None = None

    def step(self, work: Callable[[], T], batch_size: int) -> T:
        """Return work(), which takes the gradients of a batch; where memory runs out, it begins
        again with smaller passes and the same draws.

        Raises BadInput where one sample is too many, or other processes would wait meanwhile.
        """
        while True:
            draws = random_state()
            with largest_pass(self.most):
                result, enough = attempted(work)
            if enough:
                return result  # type: ignore[return-value]
            size = min(self.most or batch_size, batch_size)
            if size < 2:
                raise BadInput(
                    f"a batch of {batch_size} samples that runs out of memory on each of them",
                    expected="room for the activations of one",
                    fix="pass recompute=True (--recompute), or resize the images (--resize)",
                )
            if ranks().world > 1:
                raise BadInput(
                    f"a batch of {batch_size} samples that runs out of memory",
                    expected="room for its activations",
                    fix=f"pass microbatch={size // 2} (--microbatch), a smaller batch, or --resize",
                )
            self.most = half_of(size, "a pass with gradients")
            set_random_state(draws)


@contextmanager
def largest_pass(samples: int | None) -> Iterator[None]:
    """Run a block in which passes with gradients keep the activations of this many samples at
    most; None sets no bound.
    """
    token = _with_gradients.set(samples)
    try:
        yield
    finally:
        _with_gradients.reset(token)


def too_large(x: Tensor) -> bool:
    """Return whether a pass of x would keep more activations than `largest_pass` allows."""
    most = _with_gradients.get()
    return most is not None and len(x) > most and torch.is_grad_enabled()


def recomputed_in_parts(network: nn.Module, run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return run(x), a pass through the network, in even parts that `largest_pass` allows.

    Each part is computed once more during the backward pass, with the same draws. Running
    statistics move with each part, once.
    """
    most = _with_gradients.get() or len(x)
    parts = x.tensor_split(ceil(len(x) / most))
    return torch.cat([computed_twice(run, [network], part) for part in parts])


def computed_twice(
    run: Callable[..., T], modules: Sequence[nn.Module], /, *inputs: Any, **named: Any
) -> T:
    """Return run(...), a pass through the modules, whose activations are not kept: it is computed
    once more whenever gradients are taken, with the same draws, and moves running statistics once.
    """
    layers = [part for each in modules for part in each.modules() if isinstance(part, _NormBase)]

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _Again(partial(_still, layers))

    named_run = partial(run, **named)  # whose names may be those of options of `checkpoint`
    out: T = checkpoint(named_run, *inputs, use_reentrant=False, context_fn=contexts)
    return out


class _Again(AbstractContextManager[None]):
    """A block that may be run several times, as where gradients of gradients are taken."""

    def __init__(self, block: Callable[[], AbstractContextManager[None]]) -> None:
        self.block = block
        self.begun: list[AbstractContextManager[None]] = []

    def __enter__(self) -> None:
        self.begun.append(self.block())
        self.begun[-1].__enter__()

    def __exit__(self, *error: Any) -> bool | None:
        return self.begun.pop().__exit__(*error)


@contextmanager
def _still(layers: list[_NormBase]) -> Iterator[None]:
    """Run a block in which layers in train mode leave their running statistics as they are."""
    momenta = [layer.momentum for layer in layers]
    counts = [(layer, layer.num_batches_tracked) for layer in layers]
    before = [None if count is None else count.clone() for _, count in counts]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for (_, count), value in zip(counts, before, strict=True):
            if count is not None and value is not None:
                count.copy_(value)
