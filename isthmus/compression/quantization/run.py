"""`quantize`: a network whose weights stand on a few levels, trained on any loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from torch import nn

from isthmus.compression.compact import Compressed
from isthmus.compression.network import baked, weight_layers
from isthmus.compression.pruning.mask import held_in
from isthmus.compression.quantization.grids import Bits, grid_of
from isthmus.compression.quantization.rounded import round_weight, rounded_in
from isthmus.compression.quantization.ways import BinaryRelax, PostTraining, Quantizer
from isthmus.data.dataset import Source, as_data
from isthmus.models.batchnorm import recalibrate
from isthmus.runs.identity import identity_of
from isthmus.runs.wording import suggestion
from isthmus.training.budget import History, training_from
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
    `PostTraining()` otherwise, which recalibrates BatchNorm. The rounding is a parametrization:
    further training, attacks and curves see the quantized network. The network that is passed stays
    as it is.

    Raises BadInput for other bits, a pruned network, names that are no layers, a method and a
    budget that do not fit, or as `fit` does.

    >>> import torch
    >>> from isthmus.data import Data
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> small = quantize(net, Data(torch.rand(8, 1, 2, 2), torch.arange(8) % 2, 2), "ternary")
    >>> len(small.model[1].weight.unique()) <= 3
    True
    """
    samples = as_data(data)
    grid = grid_of(bits)
    if held_in(model):
        raise BadInput(
            "a pruned network, whose masks quantization does not hold",
            expected="a network without masks",
            fix="pass baked(model): on a grid with 0, rounding keeps its zeros until it is trained",
        )
    method = method or (BinaryRelax() if training else PostTraining())
    _check_budget(method, training)
    net = baked(model)
    chosen = _chosen(net, bits, layers)
    known = weight_layers(net)
    for name in chosen:
        round_weight(known[name], grid, method.relaxed)
    history: History | None = None
    if method.trains:
        options = training_from(None, training)
        history = fit(net, samples, loss, training=options, checkpoint=checkpoint)
    else:
        recalibrate(net, samples)
    for rounded, _ in rounded_in(net).values():
        rounded.relaxed = 0.0
    net.eval()
    return Compressed(net, _record(net, bits, method, loss, history))


def _check_budget(method: Quantizer, training: dict[str, Any]) -> None:
    if method.trains != bool(training):
        raise BadInput(
            f"{type(method).__name__} with{'' if training else 'out'} a budget",
            expected="steps and lr for what trains, and none for PostTraining()",
            fix="pass steps=..., lr=..." if method.trains else "leave them out",
        )


def _chosen(net: nn.Module, bits: Bits, layers: Layers) -> list[str]:
    """Return the names of the layers to quantize. Raises BadInput where a name is none."""
    names = list(weight_layers(net))
    if layers is None:
        layers = "inner" if bits != 8 and len(names) > 2 else "all"
    if layers == "all":
        return names
    if layers == "inner":
        inner = names[1:-1]
        if not inner:
            raise BadInput(
                f"the inner layers of {len(names)}",
                expected="three layers or more",
                fix='pass layers="all"',
            )
        return inner
    for name in layers:
        if name not in names:
            raise BadInput(
                f"layer {name!r}",
                expected='"inner", "all", or names of convolutional and linear layers',
                fix=suggestion(name, names),
            )
    return list(layers)


def _record(
    net: nn.Module, bits: Bits, method: Quantizer, loss: Loss, history: History | None
) -> dict[str, Any]:
    """Return what was done, as plain JSON, with the zeros of each layer."""
    layers: dict[str, dict[str, Any]] = {}
    for name, (rounded, original) in rounded_in(net).items():
        level, scale = rounded.grid.fit(original)
        zeros = int((level == 0).sum())
        layers[name] = {"units": level.numel(), "kept": level.numel() - zeros}
        layers[name] |= {"scale": float(scale)}
    return {
        "kind": "quantize",
        "bits": bits,
        "method": identity_of(method),
        "units": sum(layer["units"] for layer in layers.values()),
        "kept": sum(layer["kept"] for layer in layers.values()),
        "layers": layers,
        "loss": identity_of(loss),
        "gradients": 0 if history is None else history.steps,
        "seconds": 0.0 if history is None else history.seconds,
    }
