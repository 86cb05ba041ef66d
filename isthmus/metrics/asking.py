"""How metrics ask a network: `measure`, and the passes and attacks that questions share within it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from isthmus.data.dataset import Data
from isthmus.models.forward import as_input, device_of, laid_out, outputs, pass_size
from isthmus.runs.devices import Precision
from isthmus.types import Attack, BadInput, Metric

T = TypeVar("T")


_Seen = dict[
    tuple[str | int, ...], tuple[tuple[Any, ...], Any]
]  # the objects themselves, lest their ids be reused


_shared: ContextVar[_Seen | None] = ContextVar("what is known of a network", default=None)


@contextmanager
def _sharing() -> Iterator[None]:
    token = _shared.set({})
    try:
        yield
    finally:
        _shared.reset(token)


def _once(what: str, about: tuple[Any, ...], compute: Callable[[], T]) -> T:
    """Return what `compute` gives; within `measure` it is computed once for the same objects."""
    cache = _shared.get()
    if cache is None:
        return compute()
    key: tuple[str | int, ...] = (what, *map(id, about))
    if key not in cache:
        cache[key] = (about, compute())
    found: T = cache[key][1]
    return found


def logits(model: nn.Module, data: Data, precision: Precision = "fp32") -> Tensor:
    """Return the network's outputs on the data, (n, classes) float32 on the CPU, in eval mode.

    Within `measure` each network meets each data set once. Raises BadInput where the outputs are
    not (n, classes), or not finite."""
    return _once(f"logits {precision}", (model, data), lambda: _logits(model, data, precision))


def _logits(model: nn.Module, data: Data, precision: Precision) -> Tensor:
    try:
        out = outputs(model, data.x, precision=precision)
    except (BadInput, torch.OutOfMemoryError):
        raise
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        why = str(error).partition("\n")[0]
        raise BadInput(
            f"images of shape {tuple(data.x.shape[1:])} and type {data.x.dtype} that the network cannot read ({why})",
            expected="the shape and type it was built for",
            fix="convert the images, or check the model factory",
        ) from error
    if out.ndim != 2 or out.shape[1] != data.num_classes:
        raise BadInput(
            f"outputs of shape {tuple(out.shape)}",
            expected=f"({len(data)}, {data.num_classes}): one logit per class of the data",
            fix="build the network for these classes, or relabel the data",
        )
    if not torch.isfinite(out).all():
        raise BadInput(
            "outputs that are NaN or infinite",
            expected="finite logits",
            fix="check the weights and inputs",
        )
    return out


def measure(model: nn.Module, metrics: Mapping[str, Metric]) -> dict[str, float]:
    """Return every metric's answer about the network; questions about the same data share passes
    and attacks.
    """
    with _sharing():
        return {name: metric(model) for name, metric in metrics.items()}


def _batches(data: Data, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    size = pass_size(data.x, device, gradients=True)
    return zip(data.x.split(size), data.y.split(size), strict=True)


def _attacked_batch(
    model: nn.Module, x: Tensor, y: Tensor, attack: Attack, channels_last: bool
) -> Tensor:
    device = device_of(model)
    x = as_input(x, device, channels_last=channels_last)
    found = attack(model, x, y.to(device)).detach().cpu()
    if found.shape != x.shape:
        raise BadInput(
            f"attacked inputs of shape {tuple(found.shape)}",
            expected=f"{tuple(x.shape)}",
            fix="check the attack",
        )
    return found


def attacked(model: nn.Module, data: Data, attack: Attack) -> Data:
    """Return the data with the attacked inputs in place of the images, in batches sized to memory.

    Within `measure` each network meets each attack on each data set once. Raises BadInput where the
    attack returns other shapes, or leaves [0, 1]."""
    return _once("attacked", (model, data, attack), lambda: _attacked(model, data, attack))


def _attacked(model: nn.Module, data: Data, attack: Attack) -> Data:
    with laid_out(model, data.x) as last:
        done = [
            _attacked_batch(model, x, y, attack, last) for x, y in _batches(data, device_of(model))
        ]
    return Data(torch.cat(done), data.y, data.classes)
