"""`fit`: the one training loop. The budget is counted in steps, whatever the number of samples.

Source: Zhao et al., ICLR 2020, and Garipov et al., NeurIPS 2018, for optimizer and schedule. Where
we depart: batches are drawn from an endless reshuffled repetition of the data instead of a data set
tiled to a fixed size, so n = 50 and n = 2,500 get the same number of steps.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from isthmus.data.dataset import Data, Source, as_data
from isthmus.models.compiled import compiled
from isthmus.models.forward import as_input, pass_precision, set_channels_last, takes_channels_last
from isthmus.models.memory import GradientPasses
from isthmus.models.recomputed import recomputed
from isthmus.runs.devices import pick_device
from isthmus.runs.locks import alone
from isthmus.runs.processes import joined_ranks, ranks, share_from_first
from isthmus.runs.progress import bar
from isthmus.training.batches import batch_indices
from isthmus.training.budget import History, Training, training_from
from isthmus.training.hooks import AfterStep
from isthmus.training.losses import cross_entropy
from isthmus.training.precision import training_precision
from isthmus.training.sharding import shared_out
from isthmus.training.state import TrainingRun, held_precision
from isthmus.types import BadInput, Loss

SAVED_WITHIN = 30.0
"""The seconds of work that an interruption of a single process may cost, but for a step."""


@joined_ranks()
def fit(
    module: nn.Module,
    data: Source,
    loss: Loss = cross_entropy,
    *,
    training: Training | None = None,
    after_step: AfterStep | None = None,
    progress: str = "training",
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 50,
    **options: Any,
) -> History:
    """Minimize `loss(module, x, y)` over the module's trainable parameters, in place.

    `options` are fields of `Training` (steps, lr, batch_size, augment, seed, ...), in place of
    those of `training` where both are given; without `training`, `steps` and `lr` are required.

    A batch is `batch_size` samples per rank from an endless reshuffled repetition of the data. One
    draw of the global generator, seeded with `seed` plus the rank, serves dropout, augmentation and
    whatever the loss draws. `after_step` is called with the module after each step and may project
    it (a mask, a constraint); `in_order` makes one hook of several. The module stays on the device
    where it was trained, in eval mode. Under `torchrun`, gradients are averaged over all ranks.
    `progress` labels the progress bar.

    Where memory runs out, the batch stays what it is: it is passed in halves whose activations are
    computed again for the gradients, a third more work, and a notice says so. The loss is that of
    the whole batch; only BatchNorm takes its statistics from each half. Several processes, which
    would wait for each other, refuse instead.

    With `checkpoint`, the state is saved there every `checkpoint_every` steps, in a single process
    every half minute as well, and at the end; a later call with the same arguments goes on from it
    to the identical result.

    Raises BadInput where an option is unknown or out of range, nothing trains, the loss stops being
    finite, precision or device is unknown, the checkpoint is of another run or another process is
    at it, or memory does not suffice for one sample.

    >>> from isthmus import Data
    >>> data = Data(torch.rand(8, 1, 2, 2), torch.arange(8) % 2, classes=2)
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> fit(net, data, steps=20, lr=0.1).steps
    20
    """
    data = as_data(data)
    file = Path(checkpoint) if checkpoint else None
    training = _placed(module, data, training_from(training, options))
    _check_hook(training, after_step)
    channels_last = not training.shard and takes_channels_last(module, data.x)
    set_channels_last(module.train(), channels_last)
    run = _started(module, data, loss, _decided(module, data, training, file), after_step)
    identity = run.identity() if file else {}
    with (
        _seeded(run.training.seed + ranks().rank),
        _state_of_its_own(file),
        shared_out(module, data.x, training.shard) as trained,
    ):
        if trained is not module:
            optimizer = _optimizer(trained, run.training)
            run = dataclasses.replace(run, module=trained, optimizer=optimizer)
        if file and file.exists():
            run.load(file, identity)
        save = partial(run.save, file, identity) if file else None
        with bar(_label(progress, run), run.training.steps, run.step) as advance:
            _train(run, data, channels_last, advance, save, checkpoint_every)
    share_from_first(module.buffers())
    set_channels_last(module, False)
    module.eval()
    return run.history


def _label(progress: str, run: TrainingRun) -> str:
    return f"{progress} on {run.training.device} in {run.training.precision}"


def _check_hook(training: Training, after_step: AfterStep | None) -> None:
    """Raise BadInput where a hook would see a part of each weight."""
    if training.shard and after_step is not None:
        raise BadInput(
            "after_step (a check or a constraint) and shard",
            expected="one of them: a hook would see a part of each weight",
            fix="leave shard (--shard) out",
        )


def _train(
    run: TrainingRun,
    data: Data,
    channels_last: bool,
    advance: Callable[[str], None],
    save: Callable[[], None] | None,
    every: int,
) -> None:
    """Take the steps that are left, and save the state where it is `_due`."""
    training = run.training
    saved = time.perf_counter()
    began = saved - run.history.seconds
    with (
        compiled(run.module, training.compile),
        recomputed(run.module, data.x, training.recompute),
    ):
        while run.step < training.steps:
            _step(run, data, channels_last)
            now = time.perf_counter()
            run.history.seconds = now - began
            if save and _due(run, every, now - saved):
                save()
                saved = time.perf_counter()
            advance(f"loss {run.history.losses[-1]:.3f}" if run.history.losses else "")


def _due(run: TrainingRun, every: int, seconds: float) -> bool:
    """Return whether the state is to be saved, that many seconds after it was last: after each
    `every` steps and the last, and in time. Clocks of several processes differ, and they save
    together.
    """
    if run.step % every == 0 or run.step == run.training.steps:
        return True
    return ranks().world == 1 and seconds > SAVED_WITHIN


def _placed(module: nn.Module, data: Data, training: Training) -> Training:
    """Put the module on its device, the same on all ranks; return the training with the device.

    Raises BadInput where device or precision are unknown, or nothing trains.
    """
    device = pick_device(training.device)
    pass_precision(module, device, training.precision)
    _trainable(module)
    module.to(device)
    share_from_first([*module.parameters(), *module.buffers()])
    return training.replace(device=device)


def _decided(module: nn.Module, data: Data, training: Training, file: Path | None) -> Training:
    """Return the training with its precision decided: that of the state in the file, else the
    quicker one.
    """
    held = held_precision(file) if training.precision == "auto" else None
    return training.replace(precision=held or training_precision(training, module, data.x))


def _started(
    module: nn.Module, data: Data, loss: Loss, training: Training, after_step: AfterStep | None
) -> TrainingRun:
    """Return the run before its first step."""
    history = History(
        training.steps,
        training.lr,
        training.batch_size,
        training.seed,
        training.precision,
        data.sha256,
        ranks().world,
    )
    optimizer = _optimizer(module, training)
    total = torch.zeros((), device=training.device)
    passes = GradientPasses(training.microbatch)
    return TrainingRun(module, loss, training, after_step, optimizer, history, total, passes=passes)


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    """Return the module's trainable parameters. Raises BadInput if it has none."""
    trainable = [p for p in module.parameters() if p.requires_grad and p.numel()]
    if not trainable:
        raise BadInput(
            "a module with nothing to train",
            expected="parameters that require gradients",
            fix="call requires_grad_() on some, or give the curve a bend",
        )
    return trainable


def _optimizer(module: nn.Module, training: Training) -> torch.optim.Optimizer:
    """Return the optimizer of the module's trainable parameters."""
    make = training.optimizer or partial(
        torch.optim.SGD,
        momentum=training.momentum,
        nesterov=training.nesterov,
        weight_decay=training.weight_decay,
    )
    return make(_trainable(module), lr=training.lr)


def _step(run: TrainingRun, data: Data, channels_last: bool) -> None:
    """Draw a batch and take a step on it."""
    training = run.training
    device = run.total.device
    here = ranks()
    index = batch_indices(
        len(data), training.batch_size, run.step, training.seed, here.rank, here.world
    )
    x = data.x[index]
    if training.augment is not None:
        x = training.augment(x)
    run.take(as_input(x, device, channels_last=channels_last), data.y[index].to(device))


def _state_of_its_own(file: Path | None) -> AbstractContextManager[None]:
    """Return the block in which no other run saves its state in the file, for the first rank."""
    return alone(file, str(file)) if file is not None and ranks().first else nullcontext()


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw from a generator of our own within the block, and leave the caller's where it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
