"""A network whose parts are computed again for the gradients, for as long as a training lasts: it
keeps what goes into each part and not what is computed inside (activation checkpointing).

Source: Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016.

Where we depart: which parts is found by running the network once. They are modules, or neighbors in
an `nn.Sequential`, of any network, and keep a quarter of its activations each at most where it can
be cut so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from isthmus.models.forward import as_input, device_of, eval_mode, forward_pass, network_under
from isthmus.models.memory import computed_twice
from isthmus.runs.devices import kept_draws
from isthmus.runs.notices import notice

PARTS = 4
"""How many parts of one size there would be, if a network could be cut anywhere."""


@contextmanager
def recomputed(module: nn.Module, images: Tensor, wanted: bool = True) -> Iterator[None]:
    """Run a block in which the network under the module keeps less of a pass with gradients, if
    that is `wanted`. Two of the images are enough.

    Gradients are those of the whole, with the same draws. Where no part of the network can be
    computed again, a notice says so.
    """
    parts = parts_of(module, images) if wanted else []
    if wanted and not parts:
        notice("no part of the network can be computed again: it keeps all its activations")
    held = [(part, part._compiled_call_impl) for part, _ in parts]
    for part, call in parts:
        part._compiled_call_impl = call
    try:
        yield
    finally:
        for part, before in held:
            part._compiled_call_impl = before


def parts_of(module: nn.Module, images: Tensor) -> list[tuple[nn.Module, Any]]:
    """Return the parts that are computed again, each with the call that does so."""
    kept = _Kept()
    network = network_under(module)
    device = device_of(module)
    with kept_draws(device), eval_mode(module), torch.enable_grad():
        x = as_input(images[:2].detach(), device, channels_last=False)
        try:
            with kept.of(network):
                forward_pass(module, x)
        except Exception:  # a user's network may raise anything; the real pass reports it
            return []
    found = list(_inside(network, kept, kept.size[network] / PARTS))
    return [(part.module, part) for part in found]


@dataclass
class _Kept:
    """What a pass keeps for the gradients: bytes of each module, and which of them write into
    what they are called with, so that it is not there a second time.
    """

    size: Counter[nn.Module] = field(default_factory=Counter)
    writing: set[nn.Module] = field(default_factory=set)
    total: int = 0
    seen: set[int] = field(default_factory=set)
    weights: set[int] = field(default_factory=set)
    begun: list[_Call] = field(default_factory=list)

    @contextmanager
    def of(self, network: nn.Module) -> Iterator[None]:
        """Run a block whose passes through the network are looked at."""
        hooks = [
            hook
            for part in network.modules()
            for hook in (
                part.register_forward_pre_hook(self._enter, with_kwargs=True),
                part.register_forward_hook(self._leave),
            )
        ]
        try:
            with saved_tensors_hooks(self._keep, lambda tensor: tensor):
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def _keep(self, tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in self.seen and place not in self.weights:
            self.seen.add(place)
            self.total += tensor.nbytes
        return tensor.detach()  # the tensor would hold the graph that holds it, for good

    def _enter(self, part: nn.Module, inputs: Any, named: Any) -> None:
        given = [each for each in (*inputs, *named.values()) if isinstance(each, Tensor)]
        versions = [(each, each._version) for each in given]
        self.begun.append(_Call(self.total, versions, self.weights))
        self.weights = self.weights | _weights_in(part)

    def _leave(self, part: nn.Module, inputs: Any, out: Any) -> None:
        call = self.begun.pop()
        self.size[part] += self.total - call.total
        self.weights = call.weights
        if any(each._version != version for each, version in call.versions):
            self.writing.add(part)


@dataclass
class _Call:
    """What there was when a module was called: bytes kept, what it was called with and the versions
    of that, where the weights in use lie.
    """

    total: int
    versions: list[tuple[Tensor, int]]
    weights: set[int]


def _weights_in(part: nn.Module) -> set[int]:
    """Return where the weights of a module lie that is being called.

    Those of a network that is shared out are ordinary tensors only then, and only in the parts that
    are gathered.
    """
    held = [*part.parameters(), *part.buffers()]
    whole = [tensor for tensor in held if not hasattr(tensor, "full_tensor")]
    return {tensor.untyped_storage().data_ptr() for tensor in whole}


class _Whole:
    """The call of a part that is computed again, in the place where `nn.Module.compile` has its
    own.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        return _twice(self.module._call_impl, [self.module], *inputs, **named)


class _InRuns:
    """The call of an `nn.Sequential` that computes neighbors again, each run of them by itself."""

    def __init__(self, module: nn.Module, runs: Sequence[tuple[int, int]]) -> None:
        self.module = module
        self.runs = dict(runs)

    def __call__(self, x: Any) -> Any:
        layers, first = list(self.module.children()), 0
        while first < len(layers):
            after = self.runs.get(first)
            if after is None:
                x, first = layers[first](x), first + 1
            else:
                x, first = _twice(_through, layers[first:after], layers[first:after], x), after
        return x


def _through(layers: Sequence[nn.Module], x: Any) -> Any:
    for layer in layers:
        x = layer(x)
    return x


def _twice(call: Any, layers: Sequence[nn.Module], /, *inputs: Any, **named: Any) -> Any:
    """Return what a call returns; where gradients are taken, it is computed again for them."""
    if not torch.is_grad_enabled():
        return call(*inputs, **named)
    return computed_twice(call, layers, *inputs, **named)


def _inside(module: nn.Module, kept: _Kept, most: float) -> Iterator[_Whole | _InRuns]:
    """Yield the parts below a module, of which each keeps `most` bytes at most where it can."""
    if _is_sequence(module):
        runs = _runs(list(module.children()), kept, most)
        if runs:
            yield _InRuns(module, runs)
        inside = {i for first, after in runs for i in range(first, after)}
    else:
        inside = set()
    for i, layer in enumerate(module.children()):
        if i not in inside:
            yield from _part(layer, kept, most)


def _is_sequence(module: nn.Module) -> bool:
    """Return whether a module calls its children one after another, and does nothing else."""
    hooked = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
    twice = len(list(module.children())) < len(module._modules)
    return type(module).forward is nn.Sequential.forward and not hooked and not twice


def _part(module: nn.Module, kept: _Kept, most: float) -> Iterator[_Whole | _InRuns]:
    """Yield a module as a part, or the parts below it, where these keep half of it or more."""
    if module not in kept.size:  # a list of modules, which is not called itself
        yield from _inside(module, kept, most)
        return
    if not kept.size[module] or not any(True for _ in module.children()):
        return  # nothing would be gained by a single layer, which has to keep its input
    below = [] if kept.size[module] <= most else list(_inside(module, kept, most))
    covered = sum(_size(part, kept) for part in below)
    if 2 * covered >= kept.size[module] or module in kept.writing:
        yield from below
    else:
        yield _Whole(module)


def _size(part: _Whole | _InRuns, kept: _Kept) -> int:
    if isinstance(part, _Whole):
        return kept.size[part.module]
    layers = list(part.module.children())
    return sum(kept.size[layer] for a, b in part.runs.items() for layer in layers[a:b])


def _runs(layers: Sequence[nn.Module], kept: _Kept, most: float) -> list[tuple[int, int]]:
    """Return where runs of neighbors begin and end that keep `most` bytes at most together.

    A layer that writes into its input belongs to the run before it, whatever that keeps then.
    """
    runs: list[tuple[int, int]] = []
    first, size = 0, 0
    for i, layer in enumerate(layers):
        fits = size + kept.size[layer] <= most and kept.size[layer] <= most
        if i > first and not fits and layer not in kept.writing:
            runs.append((first, i))
            first, size = i, 0
        size += kept.size[layer]
    runs.append((first, len(layers)))
    return [
        (first, after)
        for first, after in runs
        if after - first > 1 and layers[first] not in kept.writing
    ]
