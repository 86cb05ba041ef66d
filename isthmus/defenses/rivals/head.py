"""The head of a network: the linear layer that turns features into one score a class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from isthmus.models.forward import outputs
from isthmus.types import BadInput


def head_of(net: nn.Module, x: Tensor, classes: int) -> str:
    """Return the name of the last linear layer of a forward pass over x with one output a class.

    Raises BadInput where no layer is one.
    """
    ran: list[str] = []
    hooks = [
        part.register_forward_hook(_noting(ran, name, classes))
        for name, part in net.named_modules()
        if isinstance(part, nn.Linear)
    ]
    try:
        outputs(net, x[:2])
    finally:
        for hook in hooks:
            hook.remove()
    if not ran:
        raise BadInput(
            "a network without a linear layer that scores the classes",
            expected=f"an nn.Linear with {classes} outputs at its end",
            fix="choose another defense",
        )
    return ran[-1]


def _noting(ran: list[str], name: str, classes: int) -> Callable[..., None]:
    def after(_: nn.Module, __: Any, out: Tensor) -> None:
        if out.ndim == 2 and out.shape[1] == classes:
            ran.append(name)

    return after


def layer(net: nn.Module, name: str) -> nn.Linear:
    """Return the linear layer of that name."""
    found = net.get_submodule(name)
    assert isinstance(found, nn.Linear)
    return found


@torch.no_grad()
def features_of(net: nn.Module, name: str, x: Tensor) -> Tensor:
    """Return what the head takes of each image, (n, features) float64 on the CPU, in eval mode."""
    seen: list[Tensor] = []
    hook = layer(net, name).register_forward_pre_hook(
        lambda _, args: seen.append(args[0].detach().double().cpu())
    )
    try:
        outputs(net, x)
    finally:
        hook.remove()
    return torch.cat(seen)[-len(x) :]  # a probe of the memory layout comes first
