"""BatchNorm statistics of a network that has just been made out of others, from bonafide data
alone.

Source: Garipov et al., NeurIPS 2018, and Zhao et al., ICLR 2020, whose code refreshes the
statistics at every t. InstanceNorm that keeps running statistics is treated the same way; where
the text says BatchNorm, it is meant too.

Where we depart: variances are pooled over batches instead of averaged, running statistics are reset
first, dropout stays off during the pass, only the given data are read (the papers' code reads the
whole training set), and layers that the network keeps in eval mode while it trains stay frozen.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from math import ceil

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from isthmus.data.dataset import Source, as_data
from isthmus.models.forward import (
    as_input,
    device_of,
    eval_mode,
    explain_single_sample_batch,
    forward_pass,
    takes_channels_last,
)
from isthmus.models.memory import attempted, half_of
from isthmus.models.view import refuse_scripted
from isthmus.runs.devices import Precision, autocast
from isthmus.runs.notices import notice
from isthmus.runs.wording import abbreviated, counted

# Values of one batch: the whole of a bonafide set at the sizes of the literature.
_BATCH_VALUES = 2500 * 3 * 32 * 32


class _Pooled:
    """Count, mean and biased variance of one layer's input, pooled over batches (Chan's update),
    float64.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(())
        self.variance = torch.zeros(())

    def add(self, layer: _NormBase, x: Tensor) -> None:
        """Add the batch that has just passed: with momentum 1 the layer's running statistics are
        those of x alone.
        """
        assert layer.running_mean is not None and layer.running_var is not None
        count = x.numel() // x.shape[1]
        mean = layer.running_mean.double()
        variance = layer.running_var.double() * (count - 1) / count
        total = self.count + count
        shift = mean - self.mean.to(mean)
        share = count / total
        self.variance = (
            (1 - share) * self.variance.to(mean)
            + share * variance
            + share * (1 - share) * shift.square()
        )
        self.mean = self.mean.to(mean) + share * shift
        self.count = total

    def write(self, layer: _NormBase) -> None:
        """Give the layer the pooled statistics, the variance unbiased as torch's are."""
        assert layer.running_mean is not None and layer.running_var is not None
        layer.running_mean.copy_(self.mean)
        layer.running_var.copy_(self.variance * self.count / max(1, self.count - 1))


class _Averaged(_Pooled):
    """The same for InstanceNorm, whose running statistics are means over the samples' own."""

    def add(self, layer: _NormBase, x: Tensor) -> None:
        """Add the batch that has just passed."""
        assert layer.running_mean is not None and layer.running_var is not None
        self.count += len(x)
        share = len(x) / self.count
        self.mean = torch.lerp(
            self.mean.to(x.device, torch.double), layer.running_mean.double(), share
        )
        self.variance = torch.lerp(
            self.variance.to(x.device, torch.double), layer.running_var.double(), share
        )

    def write(self, layer: _NormBase) -> None:
        """Give the layer the means."""
        assert layer.running_mean is not None and layer.running_var is not None
        layer.running_mean.copy_(self.mean)
        layer.running_var.copy_(self.variance)


def layers_with_statistics(module: nn.Module) -> list[_NormBase]:
    """Return the layers that keep running statistics, in order: BatchNorm and InstanceNorm."""
    return [m for m in module.modules() if isinstance(m, _NormBase) and m.track_running_stats]


def recalibrated_layers(module: nn.Module) -> list[_NormBase]:
    """Return the layers whose running statistics `recalibrate` replaces, in order.

    Layers are frozen, and not among these, where the network's own `train()` leaves them in eval
    mode.
    """
    layers = layers_with_statistics(module)
    if not layers:
        return layers
    with _modes_restored(module):
        module.train()
        return [layer for layer in layers if layer.training]


def frozen_statistics(module: nn.Module) -> list[str]:
    """Return the names of layers whose BatchNorm statistics nothing replaces.

    They are frozen (see `recalibrated_layers`), or of a class of their own that keeps them as plain
    buffers, as FrozenBatchNorm2d of torchvision and detectron2 does.
    """
    moving = set(recalibrated_layers(module))
    return [
        name
        for name, part in module.named_modules()
        if {"running_mean", "running_var"} <= {n for n, _ in part.named_buffers(recurse=False)}
        and part not in moving
    ]


def tell_of_frozen_statistics(module: nn.Module) -> None:
    """Give notice of layers with frozen BatchNorm statistics, before a curve is made.

    Raises BadInput where a part of the network is TorchScript.
    """
    refuse_scripted(module)
    names = frozen_statistics(module)
    if names:
        notice(
            f"{counted(len(names), 'layer keeps', 'layers keep')} frozen BatchNorm statistics "
            f"({abbreviated(names)}), which stay as they are at every t, so points between two "
            "networks lose more accuracy than where they are recalibrated"
        )


@contextmanager
def _modes_restored(module: nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def batchnorm_layers(module: nn.Module) -> list[_BatchNorm]:
    """Return the BatchNorm layers that keep running statistics, in order."""
    return [layer for layer in layers_with_statistics(module) if isinstance(layer, _BatchNorm)]


@contextmanager
def _pooling(layers: list[_NormBase]) -> Iterator[dict[_NormBase, _Pooled]]:
    """Reset the layers and run a block with them in train mode, where their batches are pooled.

    Their momentum is put back afterward.
    """
    pooled = {
        layer: _Pooled() if isinstance(layer, _BatchNorm) else _Averaged() for layer in layers
    }
    hooks = [
        layer.register_forward_hook(lambda layer, args, _: pooled[layer].add(layer, args[0]))
        for layer in layers
    ]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.train()
        layer.momentum = 1.0
    try:
        yield pooled
    finally:
        for layer, momentum, hook in zip(layers, momenta, hooks, strict=True):
            layer.momentum = momentum
            hook.remove()


@torch.no_grad()
def recalibrate(
    module: nn.Module, data: Source, *, batch_size: int | None = None, precision: Precision = "fp32"
) -> nn.Module:
    """Replace the running statistics of every BatchNorm layer by those of `data`; return the
    module.

    One pass, BatchNorm in train mode and all else in eval mode, in batches as large as fit (a
    bonafide set of 2,500 small images is one batch). The first layer's result does not depend on
    the batch size; deeper layers see activations normalized by batch, so the size is the same on
    every device. Layers that the network keeps in eval mode while it trains are frozen and stay so.
    Networks without BatchNorm are left as they are, and the data unread. Where memory runs out, all
    batches are halved, and a notice says so.

    Raises BadInput where `data` cannot be read as samples, or one sample is too few for a layer to
    have a variance.
    """
    layers = recalibrated_layers(module)
    if not layers:
        return module
    x = as_data(data).x
    device = device_of(module)
    last = takes_channels_last(module, x)
    size = batch_size or max(1, _BATCH_VALUES // x[0].numel())

    def pooled(size: int) -> dict[_NormBase, _Pooled]:
        with (
            eval_mode(module),
            _pooling(layers) as statistics,
            autocast(device, precision),
            explain_single_sample_batch(),
        ):
            for part in x.tensor_split(ceil(len(x) / size)):  # even: no last batch of one sample
                forward_pass(module, as_input(part, device, channels_last=last))
        return statistics

    statistics_of, _ = attempted(partial(pooled, size))
    while statistics_of is None:
        size = half_of(min(size, len(x)), "a batch for BatchNorm")
        statistics_of, _ = attempted(partial(pooled, size))
    for layer, statistics in statistics_of.items():
        if statistics.count:  # a layer that the pass never reached keeps its reset statistics
            statistics.write(layer)
    return module
