"""`quantize`: a network whose weights stand on a few levels, trained on any loss."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import nn

from isthmus.compression.compact import Compressed
from isthmus.compression.network import plain, to_compress, weight_layers
from isthmus.compression.pruning.mask import held_in
from isthmus.compression.quantization.grids import Bits, grid_of
from isthmus.compression.quantization.rounded import round_weight, rounded_in
from isthmus.compression.quantization.ways import BinaryRelax, PostTraining, Quantizer
from isthmus.compression.statistics import give_statistics
from isthmus.data.dataset import Source, as_data
from isthmus.models.layers import check_finite
from isthmus.runs.identity import identity_of
from isthmus.runs.wording import suggestion
from isthmus.training.budget import History, Training, training_from
from isthmus.training.loop import fit
from isthmus.training.losses import cross_entropy
from isthmus.types import BadInput, Loss

Layers = Literal["inner", "all"] | Sequence[str] | None


def quantize(
    model: nn.Module,
    data: Source,
    bits: Bits = 4,
    *,
    method: Quantizer | None = None,
    layers: Layers = None,
    loss: Loss = cross_entropy,
    checkpoint: str | Path | None = None,
    **training: Any,
) -> Compressed:
    """Return a copy of the network whose convolutional and linear weights have few levels.

    `bits` is 1, "ternary", 2, 4 or 8; the levels are whole multiples of one scale for each layer.
    `layers` says which: "all", "inner" (all but the first and the last), or names. By default
    "inner" for fewer than 8 bits where there are three layers or more, and "all" otherwise: the
    first and last layers hold few of the weights and suffer most. Biases and normalization stay.

    `training` are options of `fit`; `method` is by default `BinaryRelax()` where there are any, and
    `PostTraining()` otherwise, which makes BatchNorm's statistics fit (`compression.statistics`).
    The rounding is a parametrization: further training, attacks and curves see the quantized
    network. The network that is passed stays as it is.

    Raises BadInput for other bits, a pruned network, layers that share a weight, weights in 16
    bits or not finite, names that are no layers, a method and a budget that do not fit, or as `fit`
    does.

    >>> import torch
    >>> from isthmus.data import Data
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> small = quantize(net, Data(torch.rand(8, 1, 2, 2), torch.arange(8) % 2, 2), "ternary")
    >>> len(small.model[1].weight.unique()) <= 3
    True
    """
    samples = as_data(data)
    grid = grid_of(bits)
    net = to_compress(model)
    if held_in(model):
        zeros = "stay until they are trained" if grid.lowest == 0 else "go: the grid has no 0"
        raise BadInput(
            "a pruned network, whose masks quantization does not hold",
            expected="a network without masks",
            fix=f"pass baked(model), whose zeros {zeros}",
        )
    if method is None:
        method = BinaryRelax() if training else PostTraining()
    _check_method(method)
    _check_budget(method, training)
    known = weight_layers(net)
    choice = _choice(list(known), bits, layers)
    for name in _chosen(list(known), choice):
        round_weight(known[name], grid, method if method.trains else None)
    options: Training | None = None
    history: History | None = None
    if method.trains:
        options = training_from(None, training)
        history = fit(net, samples, loss, training=options, checkpoint=checkpoint)
    else:
        give_statistics(net, plain(model), samples)
    for rounded, _ in rounded_in(net).values():
        rounded.way = None
    net.eval()
    spent = _spent(loss, options, history)
    return Compressed(net, _record(net, bits, method, choice) | spent)


def _check_method(method: Quantizer) -> None:
    """Raise BadInput where a method is none of quantization, such as its name or its class."""
    sees = callable(getattr(method, "seen", None)) and hasattr(method, "trains")
    if isinstance(method, type) or not sees:
        raise BadInput(
            f"method = {method!r}",
            expected="a way to quantize, such as BinaryRelax()",
            fix="pass BinaryRelax(), or one of isthmus.compression.quantizers() by its name",
        )


def _check_budget(method: Quantizer, training: dict[str, Any]) -> None:
    if method.trains != bool(training):
        raise BadInput(
            f"{type(method).__name__} with{'' if training else 'out'} a budget",
            expected="steps and lr for what trains, and none for PostTraining()",
            fix="pass steps=..., lr=..." if method.trains else "leave them out",
        )


def _choice(names: list[str], bits: Bits, layers: Layers) -> str | list[str]:
    """Return which of the layers to quantize: "inner", "all", or names. Raises BadInput for what is
    none of these, or names a layer twice or none.
    """
    if layers is None:
        return "inner" if bits != 8 and len(names) > 2 else "all"
    if layers in ("inner", "all"):
        return str(layers)
    expected = '"inner", "all", or a list of names of convolutional and linear layers'
    if isinstance(layers, str) or not isinstance(layers, Collection) or not layers:
        got = f"layers = {layers!r}"
        fix = f"pass layers=[{layers!r}]" if layers in names else 'pass layers="all"'
        raise BadInput(got, expected=expected, fix=fix)
    for name in layers:
        if name not in names:
            raise BadInput(f"layer {name!r}", expected=expected, fix=suggestion(str(name), names))
    twice = [name for name, count in Counter(list(layers)).items() if count > 1]
    if twice:
        raise BadInput(f"layer {twice[0]!r} twice", expected=expected, fix="name each layer once")
    return list(layers)


def _chosen(names: list[str], choice: str | list[str]) -> list[str]:
    """Return the names of the layers of a choice. Raises BadInput where none is an inner one."""
    if isinstance(choice, list):
        return choice
    if choice == "inner" and len(names) < 3:
        raise BadInput(
            f"the inner layers of {len(names)}",
            expected="three layers or more",
            fix='pass layers="all" (--layers)',
        )
    return names if choice == "all" else names[1:-1]


def _record(
    net: nn.Module, bits: Bits, method: Quantizer, choice: str | list[str]
) -> dict[str, Any]:
    """Return what was done, as plain JSON, with the zeros of each layer."""
    layers: dict[str, dict[str, Any]] = {}
    for name, (rounded, original) in rounded_in(net).items():
        fitted = rounded.fitted(original)
        check_finite({name: fitted.rounded})
        units, kept = fitted.levels.numel(), int(fitted.rounded.count_nonzero())
        layers[name] = {"units": units, "kept": kept, "scale": float(fitted.scale)}
    return {
        "kind": "quantize",
        "bits": bits,
        "method": identity_of(method),
        "choice": choice,
        "units": sum(layer["units"] for layer in layers.values()),
        "kept": sum(layer["kept"] for layer in layers.values()),
        "layers": layers,
    }


def _spent(loss: Loss, training: Training | None, history: History | None) -> dict[str, Any]:
    """Return how the network was trained, as plain JSON."""
    return {
        "loss": identity_of(loss),
        "training": None if training is None else training.run_identity,
        "gradients": 0 if history is None else history.steps,
        "seconds": 0.0 if history is None else history.seconds,
    }
