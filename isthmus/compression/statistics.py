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
from isthmus.metrics.accuracy import Divergence
from isthmus.metrics.question import measure
from isthmus.models.batchnorm import recalibrate, recalibrated_layers
from isthmus.models.correction import recalibrate_from
from isthmus.models.view import copied


def give_statistics(small: nn.Module, whole: nn.Module, data: Data) -> None:
    """Give a compressed network BatchNorm statistics, in place, by those of the whole one, which is
    in eval mode.

    Raises BadInput as `recalibrate` does.
    """
    if not recalibrated_layers(small):
        return
    moved = recalibrate_from(whole, copied(small), data)
    recalibrate(small, data)
    apart = Divergence(whole, data)
    if measure(moved, {"": apart})[""] <= measure(small, {"": apart})[""]:
        small.load_state_dict(moved.state_dict())
