"""The precision of several trainings, decided once before the first of them."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from isthmus.data.dataset import Data
from isthmus.models.forward import device_of
from isthmus.models.precision import decided_precision
from isthmus.runs.decisions import DECISIONS, decided
from isthmus.runs.devices import pick_device
from isthmus.training.budget import Training


def with_decided_precision(
    training: Training, network: nn.Module, data: Data, home: Path | None = None
) -> Training:
    """Return the training with its precision decided, for all that follows: `auto` is the one in
    which this network takes a step sooner (`decided_precision`).

    `home` is the folder of the run, which remembers the decision. The network is back on its own
    device afterward. Raises BadInput where device or precision are unknown.
    """
    if training.precision != "auto":
        return training
    device = pick_device(training.device)
    own = device_of(network)

    def decide() -> str:
        try:
            network.to(device)
            return decided_precision(network, data.x, training.batch_size, device, "auto")
        finally:
            network.to(own)

    file = home / DECISIONS if home is not None else None
    return training.replace(precision=decided(file, "precision", decide))
