"""The precision of trainings, decided once before the first of them."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from isthmus.data.dataset import Data
from isthmus.models.forward import pass_precision, placed
from isthmus.models.memory import largest_pass
from isthmus.models.precision import Exact, decided_precision
from isthmus.models.recomputed import recomputed
from isthmus.runs.decisions import DECISIONS, decided
from isthmus.runs.devices import pick_device
from isthmus.runs.processes import gathered
from isthmus.training.budget import Training


def training_precision(training: Training, module: nn.Module, images: Tensor) -> Exact:
    """Return the precision of a training, with `auto` decided for this network and batch.

    The module is on its device. Among several processes the first one decides for all; all have to
    call this together. Raises BadInput where device or precision are unknown.
    """
    return gathered(_of_this_process(training, module, images))[0]


def _of_this_process(training: Training, module: nn.Module, images: Tensor) -> Exact:
    """Return the precision of a training; a step that is timed keeps what one of its own keeps."""
    device = pick_device(training.device)
    recompute = training.recompute and training.precision == "auto"
    with largest_pass(training.microbatch), recomputed(module, images, recompute):
        return decided_precision(module, images, training.batch_size, device, training.precision)


def with_decided_precision(
    training: Training, network: nn.Module, data: Data, home: Path | None = None
) -> Training:
    """Return the training with its precision decided, for all that follows: `auto` is the one in
    which this network takes a step sooner (`decided_precision`), and bf16 is fp32 where the CPU
    cannot run this network in it.

    `home` is the folder of the run, which remembers the decision. The network is back on its own
    device afterward. Among several processes the first one decides for all. Raises BadInput where
    device or precision are unknown.
    """
    device = pick_device(training.device)
    if training.precision != "auto":
        return training.replace(precision=pass_precision(network, device, training.precision))

    def decide() -> str:
        with placed(network, device):
            return _of_this_process(training, network, data.x)

    file = home / DECISIONS if home is not None else None
    return training.replace(precision=decided(file, "precision", decide))
