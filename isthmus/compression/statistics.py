"""BatchNorm statistics of a network that was pruned or rounded, with nothing trained.

Source: ours. The usual way is to recalibrate on the trusted samples. That alone brings back part of
a backdoor that a repair has lost (docs/results/compressed_repairs.md), and costs a network accuracy
that was trained under augmentation. So where little was changed, the statistics are those that the
network came with, moved by the difference that recalibration finds; where much was changed these
fit no longer. Which is which the answers say: those that are more like the ones before are taken.
"""

from __future__ import annotations

from torch import nn

from isthmus.data.dataset import Data
from isthmus.models.batchnorm import layers_with_statistics, recalibrate, recalibrated_layers
from isthmus.models.forward import outputs
from isthmus.models.shift import Shift
from isthmus.models.view import copied
from isthmus.training.losses import divergence


def give_statistics(small: nn.Module, whole: nn.Module, data: Data) -> None:
    """Give a compressed network BatchNorm statistics, in place, by those of the whole one.

    Where those of the whole network, or its answers, are not finite they are those of the data.
    Raises BadInput as `recalibrate` does, or where the outputs are no tensor.
    """
    if not recalibrated_layers(small):
        return
    before = outputs(whole, data.x)
    shift = Shift.between(whole, recalibrate(copied(whole), data))
    recalibrate(small, data)
    moved = shift.apply(copied(small))
    if not all(value.isfinite().all() for value in moved.buffers()):
        return
    # NaN, of answers that are not finite, is no less than anything
    if divergence(outputs(moved, data.x), before) <= divergence(outputs(small, data.x), before):
        pairs = zip(layers_with_statistics(small), layers_with_statistics(moved), strict=True)
        for layer, shifted in pairs:
            layer.load_state_dict(shifted.state_dict())
