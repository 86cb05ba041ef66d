"""The layers that hold most of a network's weights: what is compressed, and what attackers who
count on a compression train.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from isthmus.types import BadInput, Params


def weighted_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the convolutional and linear layers by name, in the order of the network.

    Layers without a single weight are left out. Raises BadInput where no layer is left, or the
    size of one is not known before a first pass (`nn.LazyLinear`).

    >>> list(weighted_layers(nn.Sequential(nn.Flatten(), nn.Linear(4, 2))))
    ['1']
    """
    layers: dict[str, nn.Module] = {}
    for name, part in model.named_modules():
        if not isinstance(part, (nn.Linear, _ConvNd)):
            continue
        _check_ran(f"{name}.weight", part.weight)
        if part.weight.numel():
            layers[name] = part
    if not layers:
        raise BadInput(
            f"a {type(model).__name__} without convolutional or linear layers",
            expected="weights of such layers",
            fix="pass the network itself, not a part of it",
        )
    return layers


def _check_ran(name: str, weight: Tensor) -> None:
    """Raise BadInput where the size of a weight is not known before a first pass."""
    if is_lazy(weight):
        raise BadInput(
            f"{name} of a lazy layer that has not run",
            expected="weights of a known size",
            fix="pass a batch through the network first",
        )


def check_finite(weights: Params) -> None:
    """Raise BadInput where a tensor holds numbers that are NaN or infinite, or none yet."""
    for name, value in weights.items():
        _check_ran(name, value)
        if not value.isfinite().all():
            raise BadInput(
                f"{name} with numbers that are NaN or infinite",
                expected="finite weights",
                fix="take an earlier checkpoint: this run had diverged",
            )
