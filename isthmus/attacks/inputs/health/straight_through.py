"""BPDA: an attack through layers that have no useful gradient, by that of the identity.

Source: Athalye et al., ICML 2018, section 4.1 (backward pass differentiable approximation). The
forward pass is that of the network itself; in the backward pass a named layer passes the gradient
on as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from isthmus.attacks.inputs.health.otherwise import Otherwise
from isthmus.models.forward import network_under
from isthmus.types import BadInput


@dataclass(frozen=True)
class BPDA(Otherwise):
    """An attack in which the named layers (rounding, JPEG, thresholds) pass gradients on unchanged.

    `layers` are names of modules, as `named_modules` has them, whose output has the shape of their
    input. Raises BadInput without layers, and when called where the network has no such module, or
    its output has another shape.

    >>> import torch
    >>> from isthmus.attacks import PGD
    >>> from isthmus.data import Linf
    >>> class Rounds(nn.Module):
    ...     def forward(self, x):
    ...         return (4 * x).round() / 4
    >>> net = nn.Sequential(Rounds(), nn.Flatten(), nn.Linear(4, 3))
    >>> x, y = torch.full((2, 1, 2, 2), 0.5), torch.tensor([0, 1])
    >>> BPDA(PGD(Linf(0.2)), ("0",))(net, x, y).shape
    torch.Size([2, 1, 2, 2])
    """

    layers: Sequence[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        if not self.layers:
            raise BadInput(
                "no layers", expected="names of modules", fix="name them as named_modules does"
            )

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the attacked inputs, of the shape, type and device of x."""
        with straight_through(model, self.layers):
            return self.attack(model, x, y)


@contextmanager
def straight_through(model: nn.Module, layers: Sequence[str]) -> Iterator[None]:
    """Run a block in which the named layers pass gradients on as the identity does.

    Raises BadInput as `named_layers` does.
    """
    with ExitStack() as hooks:
        for layer in named_layers(model, layers):
            handle = layer.register_forward_hook(_pass_on)
            hooks.callback(handle.remove)
        yield


def named_layers(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """Return the modules of these names. Raises BadInput where the network has no such module.

    >>> named_layers(nn.Sequential(nn.Flatten(), nn.ReLU()), ["1"])
    [ReLU()]
    """
    modules = dict(network_under(model).named_modules())
    unknown = [name for name in names if name not in modules or not name]
    if unknown:
        raise BadInput(
            f"layer {unknown[0]!r}",
            expected=f"one of {', '.join(list(modules)[1:9])}, ...",
            fix="name modules as named_modules does",
        )
    return [modules[name] for name in names]


def _pass_on(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
    """Return the output with the gradient of the identity."""
    given = inputs[0]
    if not isinstance(output, Tensor) or output.shape != given.shape:
        shape = getattr(output, "shape", ())
        raise BadInput(
            f"a layer {type(module).__name__} from {tuple(given.shape)} to {tuple(shape)}",
            expected="an output of the shape of the input",
            fix="name layers that round or threshold, and no others",
        )
    return given + (output - given).detach()
