"""A network called with other weights than its own, or copied: what curve points and perturbed
networks have in common.

Source: `torch.func.functional_call`. Where we depart: tied tensors and submodules that stand in
several places are put under the network by place, once each, for `functional_call` by itself would
not put them back."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.func import functional_call

from isthmus.runs.wording import suggestion
from isthmus.types import BadInput, Params

M = TypeVar("M", bound=nn.Module)


def places(module: nn.Module) -> dict[str, str]:
    """Return where each parameter and buffer stands, place to name: tied ones stand in several
    places.

    A submodule that stands in several places counts once: `functional_call` would not put its
    tensors back otherwise."""
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
    found: Params = {}
    for asked in names:
        part = {
            name: p
            for name, p in held.items()
            if not asked or name == asked or name.startswith(f"{asked}.")
        }
        if not part:
            known = [*held, *(name.rpartition(".")[0] for name in held)]
            raise BadInput(
                f"no parameters at {asked!r}",
                expected="a layer or a parameter",
                fix=suggestion(asked, known),
            )
        found |= part
    return found


class View(nn.Module):
    """A live view of `net` under the given weights and buffers, by name; gradients flow to the
    weights given.

    In eval mode the network reads `kept`; in train mode what it writes into its buffers goes to
    `scratch`, by default copies of `kept`, so a view never changes the network behind it."""

    def __init__(
        self,
        net: nn.Module,
        weights: Params,
        kept: Params,
        scratch: Params | None = None,
        placed: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.net, self.training = net, net.training
        self.weights, self.kept = weights, kept
        self.scratch = {name: t.clone() for name, t in kept.items()} if scratch is None else scratch
        self.placed = places(net) if placed is None else placed

    @classmethod
    def of(cls, model: nn.Module) -> View:
        """Return a view of a network under its own trainable weights; a view is returned as it is."""
        if isinstance(model, View):
            return model
        weights: Params = {name: p for name, p in model.named_parameters() if p.requires_grad}
        return cls(model, weights, {name: t.detach() for name, t in model.named_buffers()})

    def moved(self, step: Mapping[str, Tensor]) -> View:
        """Return the view whose named weights are moved by the given step."""
        weights = {name: w + step[name] if name in step else w for name, w in self.weights.items()}
        return View(self.net, weights, self.kept, self.scratch, self.placed)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Return the network's outputs with these weights."""
        under = {**self.weights, **(self.scratch if self.net.training else self.kept)}
        tensors = {place: under[name] for place, name in self.placed.items() if name in under}
        return functional_call(self.net, tensors, inputs, named, tie_weights=False)


def copied(module: M) -> M:
    """Return a deep copy of a module, of those too whose hooks compute weights before each pass.

    torch refuses to copy a tensor that autograd records. What such hooks leave in a module (those
    of the older `weight_norm` and `spectral_norm`) is computed anew at the next pass, so its record
    is let go."""
    for part in module.modules():
        for name, value in vars(part).items():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                setattr(part, name, value.detach())
    return copy.deepcopy(module)


def at_weights(net: nn.Module, weights: Params) -> View:
    """Return the network under other weights, with buffers of its own."""
    buffers = {name: buffer.detach().clone() for name, buffer in net.named_buffers()}
    return View(net, weights, buffers, scratch=buffers)
