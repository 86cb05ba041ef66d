"""BatchNorm statistics of a network that was pruned or rounded, with nothing trained.

Source: ours. The usual way is to recalibrate on the trusted samples. That alone brings back part of
a backdoor that a repair has lost (docs/results/compressed_repairs.md), and costs a network accuracy
that was trained under augmentation. So where little was changed, the statistics are those that the
network came with, moved by the difference that recalibration finds; where much was changed these
fit no longer. Which is which the answers say: those that are more like the ones before are taken.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from isthmus.data.dataset import Data
from isthmus.models.batchnorm import layers_with_statistics, recalibrate, recalibrated_layers
from isthmus.models.forward import outputs
from isthmus.models.shift import Shift
from isthmus.models.view import copied


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
    if _divergence(outputs(moved, data.x), before) <= _divergence(outputs(small, data.x), before):
        pairs = zip(layers_with_statistics(small), layers_with_statistics(moved), strict=True)
        for layer, shifted in pairs:
            layer.load_state_dict(shifted.state_dict())


def _divergence(after: Tensor, before: Tensor) -> Tensor:
    """Return KL(before || after) of logits (n, classes), a mean over samples; NaN, which is no
    better than anything, where they are not finite.
    """
    shares, wanted = after.log_softmax(1), before.log_softmax(1)
    return F.kl_div(shares, wanted, reduction="batchmean", log_target=True)
