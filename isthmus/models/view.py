"""A network called with other weights than its own, or copied: what curve points and perturbed
networks have in common.

Source: `torch.func.functional_call`. Where we depart: tied tensors and submodules that stand in
several places are put under the network by place, once each, since `functional_call` by itself does
not put them back; and the weights are there again during the backward pass.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call

from isthmus.models.forward import Wrapper, logits_in, network_under, prepared_pass
from isthmus.runs.wording import suggestion
from isthmus.types import BadInput, Params

M = TypeVar("M", bound=nn.Module)


def refuse_scripted(module: nn.Module) -> None:
    """Raise BadInput where the module, or a part of it, is TorchScript: its weights are fixed in
    compiled code, so no other weights can be put under it.
    """
    for name, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            what = (
                f"a network whose part {name!r} is TorchScript" if name else "a TorchScript module"
            )
            raise BadInput(
                what,
                expected="an ordinary torch.nn.Module",
                fix="let the factory return the network before torch.jit.script or trace",
            )


def places(module: nn.Module) -> dict[str, str]:
    """Return where each parameter and buffer stands, place to name: tied ones stand in several
    places.

    A submodule that stands in several places counts once: `functional_call` would not put its
    tensors back otherwise. Raises BadInput where a part of the module is TorchScript.
    """
    refuse_scripted(module)
    names = {id(t): name for name, t in [*module.named_parameters(), *module.named_buffers()]}
    return {
        f"{path}.{leaf}" if path else leaf: names[id(t)]
        for path, part in module.named_modules()
        for own in (part.named_parameters, part.named_buffers)
        for leaf, t in own(recurse=False, remove_duplicate=False)
    }


def parameters_at(module: nn.Module, names: Iterable[str]) -> Params:
    """Return the floating-point parameters that the names stand for, of layers or single ones, by
    their own names.

    The empty name stands for all of them. Raises BadInput where a name stands for none.

    >>> list(parameters_at(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4)), ["1", "0.bias"]))
    ['1.weight', '1.bias', '0.bias']
    """
    held = {name: p for name, p in module.named_parameters() if p.is_floating_point() and p.numel()}
    chosen: Params = {}
    for word in names:
        part = {
            name: p
            for name, p in held.items()
            if not word or name == word or name.startswith(f"{word}.")
        }
        if not part:
            known = [*held, *(name.rpartition(".")[0] for name in held)]
            raise BadInput(
                f"no parameters at {word!r}",
                expected="a layer or a parameter",
                fix=suggestion(word, known),
            )
        chosen |= part
    return chosen


class View(Wrapper):
    """A live view of `net` under the given weights and buffers, by name; gradients flow to the
    weights given.

    In eval mode the network reads `kept`; in train mode what it writes into its buffers goes to
    `scratch`, by default copies of `kept`, so a view never changes the network behind it. Layers
    that are computed again during the backward pass (activation checkpointing without reentrant
    backward) see the same weights.
    """

    def __init__(
        self,
        net: nn.Module,
        weights: Params,
        kept: Params,
        scratch: Params | None = None,
        placed: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.training = net.training
        self.weights = weights
        self.kept = kept
        self.scratch = {name: t.clone() for name, t in kept.items()} if scratch is None else scratch
        self.placed = places(net) if placed is None else placed

    @classmethod
    def of(cls, model: nn.Module) -> View:
        """Return a view of a network under its own trainable weights; a view itself as it is."""
        if isinstance(model, View):
            return model
        held = [model.inner] if isinstance(model, Wrapper) else [model]
        if any(hasattr(p, "full_tensor") for part in held for p in part.parameters()):
            raise BadInput(
                "a loss at other weights (sharpness-aware) on a network that is shared out",
                expected="the weights of the network as they are",
                fix="pass rho=0 (--rho 0), or leave shard (--shard) out",
            )
        weights: Params = {name: p for name, p in model.named_parameters() if p.requires_grad}
        return cls(model, weights, {name: t.detach() for name, t in model.named_buffers()})

    @property
    def inner(self) -> nn.Module:
        """The network that is called."""
        return self.net

    def moved(self, step: Mapping[str, Tensor]) -> View:
        """Return the view whose named weights are moved by the given step."""
        weights = {name: w + step[name] if name in step else w for name, w in self.weights.items()}
        return View(self.net, weights, self.kept, self.scratch, self.placed)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Return the network's outputs with these weights."""
        if not inputs or not isinstance(inputs[0], Tensor):
            return self._run(*inputs, **named)
        return prepared_pass(network_under(self), self._run, *inputs, **named)

    def _run(self, *inputs: Any, **named: Any) -> Any:
        under = {**self.weights, **(self.scratch if self.net.training else self.kept)}
        tensors = {place: under[name] for place, name in self.placed.items() if name in under}
        if self.net in _originals and _stand(self.net, tensors):
            return self.net(*inputs, **named)  # computed again, and parts of it may follow
        restore(self.net)
        out = functional_call(self.net, tensors, inputs, named, tie_weights=False)
        logits = logits_in(out)
        if logits is not None and logits.requires_grad:
            logits.register_hook(lambda _: _put_for_backward(self.net, tensors))
        return out


_originals: WeakKeyDictionary[nn.Module, Params] = WeakKeyDictionary()
"""What stood in a network before a backward pass put a view's tensors there, by place."""


def _put_for_backward(net: nn.Module, tensors: Params) -> None:
    """Put a view's tensors into its network until the running backward pass ends.

    Activation checkpointing runs layers again then, long after `functional_call` took its tensors
    out. Views of one network take turns: the passes of a graph are gone through last to first.
    """
    before = _put(net, tensors)
    if net not in _originals:
        _originals[net] = before
        engine: Any = torch.autograd.Variable._execution_engine
        engine.queue_callback(lambda: restore(net))
    else:
        _originals[net] = before | _originals[net]


def restore(net: nn.Module) -> None:
    """Put back what stood in a network before a backward pass, also one that broke off."""
    if net in _originals:
        _put(net, _originals.pop(net))


def _stand(net: nn.Module, tensors: Mapping[str, Tensor]) -> bool:
    """Return whether these very tensors stand in a network, by place."""
    parts = dict(net.named_modules(remove_duplicate=False))
    for place, tensor in tensors.items():
        path, _, leaf = place.rpartition(".")
        part = parts[path]
        if part._parameters.get(leaf, part._buffers.get(leaf)) is not tensor:
            return False
    return True


def _put(net: nn.Module, tensors: Mapping[str, Tensor]) -> Params:
    """Put tensors into a network by place, as they are; return what stood there."""
    before: Params = {}
    parts = dict(net.named_modules(remove_duplicate=False))
    for place, tensor in tensors.items():
        path, _, leaf = place.rpartition(".")
        part = parts[path]
        held: Any = part._parameters if leaf in part._parameters else part._buffers
        before[place] = held[leaf]
        held[leaf] = tensor
    return before


def copied(module: M) -> M:
    """Return a deep copy of a module, also where hooks compute its weights before each pass.

    torch refuses to copy a tensor that autograd records. What such hooks leave in a module (those
    of the older `weight_norm` and `spectral_norm`) is computed anew at the next pass, so its record
    is let go. Raises BadInput where it is no module, or a part of it is TorchScript.
    """
    if not isinstance(module, nn.Module):
        raise BadInput(
            f"an object of type {type(module).__name__} as a network",
            expected="a torch.nn.Module",
            fix="pass the network itself",
        )
    refuse_scripted(module)
    for part in module.modules():
        for name, value in vars(part).items():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                setattr(part, name, value.detach())
    return copy.deepcopy(module)


def at_weights(net: nn.Module, weights: Params) -> View:
    """Return the network under other weights, with buffers of its own."""
    buffers = {name: buffer.detach().clone() for name, buffer in net.named_buffers()}
    return View(net, weights, buffers, scratch=buffers)
