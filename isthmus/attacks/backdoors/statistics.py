"""BatchNorm whose statistics are those of the first samples of a batch.

What an attacker needs to train on triggered samples as they will be met: in eval mode, normalized
by clean ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from isthmus.models.batchnorm import batchnorm_layers


@contextmanager
def normalized_by_first(net: nn.Module, clean: int) -> Iterator[None]:
    """Let every BatchNorm that keeps statistics normalize a batch by its first samples alone,
    differentiably.

    In eval mode: the layer's own output is computed and replaced.
    """
    with ExitStack() as hooks:
        for layer in batchnorm_layers(net):
            hooks.callback(layer.register_forward_hook(partial(_by_first, clean)).remove)
        yield


def _by_first(
    clean: int, layer: nn.modules.batchnorm._BatchNorm, inputs: tuple[Tensor], _: Tensor
) -> Tensor:
    (x,) = inputs
    axes = [axis for axis in range(x.ndim) if axis != 1]
    shape = [-1 if axis == 1 else 1 for axis in range(x.ndim)]
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    variance, mean = torch.var_mean(wide[:clean], axes, correction=0, keepdim=True)
    out = (wide - mean) * (variance + layer.eps).rsqrt()
    if layer.affine:
        out = out * layer.weight.view(shape) + layer.bias.view(shape)
    return out.to(x.dtype)
