"""`prune`: a network with a share of its weights or channels, trained on any loss."""

from __future__ import annotations

from numbers import Real
from pathlib import Path
from typing import Any, Literal

from torch import nn

from isthmus.compression.compact import Compressed
from isthmus.compression.network import plain, to_compress
from isthmus.compression.pruning.job import Pruner, PruningJob
from isthmus.compression.pruning.magnitude import Magnitude
from isthmus.compression.pruning.smaller import without_channels
from isthmus.compression.pruning.units import ChannelUnits, Units, WeightUnits
from isthmus.compression.statistics import give_statistics
from isthmus.data.dataset import Data, Source, as_data
from isthmus.models.forward import as_input, device_of
from isthmus.runs.identity import identity_of
from isthmus.runs.notices import notice
from isthmus.training.budget import Training, training_from
from isthmus.training.losses import cross_entropy
from isthmus.types import BadInput, Loss

Structure = Literal["weights", "channels"]


def prune(
    model: nn.Module,
    data: Source,
    density: float,
    structure: Structure = "weights",
    *,
    method: Pruner | None = None,
    loss: Loss = cross_entropy,
    checkpoint: str | Path | None = None,
    **training: Any,
) -> Compressed:
    """Return a copy of the network with a share `density` of its weights, or of its channels.

    The share is of all convolutional and linear weights together, or of all channels that can go,
    and the number that stays is exact; something stays in every layer. `method` is `Magnitude()` by
    default. `training` are options of `fit` (steps, lr, ...), the budget of everything that the
    method trains; without any, nothing is trained and BatchNorm's statistics are made to fit
    (`compression.statistics`). With `checkpoint`, an interrupted run goes on.

    Masks are parametrizations with a buffer: they hold through training, saving and curves. Without
    its channels the network is physically smaller, with no masks, where it can be; `record` says
    whether it is, and why it is not, as a notice does. The network that is passed stays as it is;
    one that is pruned or quantized already is taken at its present values.

    Raises BadInput where density is outside (0, 1], nothing is there to prune, layers share a
    weight, a parameter is not finite, fewer would stay than there are layers, the method needs more
    steps, or as `fit` does.

    >>> import torch
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> small = prune(net, Data(torch.rand(8, 1, 2, 2), torch.arange(8) % 2, 2), 0.5)
    >>> small.record["units"], small.record["kept"], int((small.model[1].weight != 0).sum() > 0)
    (48, 24, 1)
    """
    samples = as_data(data)
    _check_density(density)
    options = training_from(None, training) if training else None
    method = Magnitude() if method is None else method
    _check_method(method)
    _check_steps(method, 0 if options is None else options.steps)
    net = to_compress(model)
    units = _units(net, structure, samples)
    target = round(density * units.total)
    _check_target(target, units)
    state = Path(checkpoint) if checkpoint else None
    job = PruningJob(net, samples, units, target, loss, options, state)
    method(job)
    if options is None:
        give_statistics(net, plain(model), samples)
    net.eval()
    record = _record(job, structure, method, density)
    if not isinstance(units, ChannelUnits):
        return Compressed(net, record)
    few = as_input(samples.x[:64], device_of(net), channels_last=False)
    try:
        smaller = without_channels(net, units, few)
    except BadInput as refusal:
        notice(f"the network keeps its masks and its size: {refusal.got}")
        return Compressed(net, record | {"smaller": False, "smaller_reason": refusal.got})
    return Compressed(smaller, record | {"smaller": True})


def _check_density(density: float) -> None:
    if not (isinstance(density, Real) and 0 < density <= 1):
        raise BadInput(
            f"density = {density!r}",
            expected="a share in (0, 1]: what stays",
            fix="pass density=0.1 (--density) to keep a tenth",
        )


def _check_method(method: Pruner) -> None:
    """Raise BadInput where a method is none of pruning, such as its name or its class."""
    if not (callable(method) and isinstance(getattr(method, "least_steps", None), int)):
        raise BadInput(
            f"method = {method!r}",
            expected="a pruning method, such as Magnitude()",
            fix="pass Magnitude(), or one of isthmus.compression.pruners() by its name",
        )


def _check_steps(method: Pruner, steps: int) -> None:
    """Raise BadInput where the budget does not suffice for what the method does."""
    if steps < method.least_steps:
        budget = f"a budget of {steps} steps" if steps else "no budget"
        raise BadInput(
            f"{budget} for {type(method).__name__}",
            expected=f"{method.least_steps} steps or more",
            fix="pass steps=..., lr=... (--steps, --lr), or Magnitude(), which needs none",
        )


def _units(net: nn.Module, structure: str, data: Data) -> Units:
    if structure == "weights":
        return WeightUnits(net)
    if structure == "channels":
        return ChannelUnits(net, data.x[:2])
    raise BadInput(
        f"structure {structure!r}", expected="weights or channels", fix='pass structure="weights"'
    )


def _check_target(target: int, units: Units) -> None:
    """Raise BadInput where not even one unit for each layer would stay."""
    if target < len(units.counts):
        raise BadInput(
            f"a density at which {target} of {units.total:,} would stay",
            expected=f"one or more for each of the {len(units.counts)} layers",
            fix=f"pass density={2 * len(units.counts) / units.total:.1g} (--density)",
        )


def _record(job: PruningJob, structure: str, method: Pruner, density: float) -> dict[str, Any]:
    """Return what was done, as plain JSON."""
    training: Training | None = job.training
    layers = {
        name: {"units": size, "kept": int(job.units.on[name].sum())}
        for name, size in job.units.counts.items()
    }
    return {
        "kind": "prune",
        "structure": structure,
        "method": identity_of(method),
        "density": density,
        "units": job.units.total,
        "kept": sum(layer["kept"] for layer in layers.values()),
        "layers": layers,
        "loss": identity_of(job.loss),
        "training": None if training is None else training.run_identity,
        "gradients": sum(history.steps for history in job.histories),
        "seconds": sum(history.seconds for history in job.histories),
    }
