"""`fit`: the one training loop. The budget is counted in SGD steps, whatever the number of samples.

Source: Zhao et al., ICLR 2020, and Garipov et al., NeurIPS 2018, for optimizer and schedule. Where
we depart: batches are drawn from an endless reshuffled repetition of the data instead of a data set
tiled to a fixed size, so n = 50 and n = 2,500 get the same number of steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from isthmus.data.dataset import Source, as_data
from isthmus.models.forward import as_input, set_channels_last, takes_channels_last
from isthmus.runs.devices import Precision, chosen_precision, pick_device
from isthmus.runs.processes import joined_ranks, ranks, share_from_first
from isthmus.runs.progress import bar
from isthmus.training.batches import batch_indices
from isthmus.training.budget import History, check_budget
from isthmus.training.losses import cross_entropy
from isthmus.training.schedules import Schedule, garipov
from isthmus.training.share import at_share
from isthmus.training.state import _identity, _Run
from isthmus.types import BadInput, Loss


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw from a generator of our own within the block, and leave the caller's where it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    found = [p for p in module.parameters() if p.requires_grad and p.numel()]
    if not found:
        raise BadInput(
            "a module with nothing to train",
            expected="parameters that require gradients",
            fix="call requires_grad_() on some, or give the curve a bend",
        )
    return found


@joined_ranks()
def fit(
    module: nn.Module,
    data: Source,
    loss: Loss = cross_entropy,
    *,
    steps: int,
    lr: float,
    batch_size: int = 128,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    clip: float | None = None,
    nesterov: bool = False,
    schedule: Schedule = garipov,
    augment: Callable[[Tensor], Tensor] | None = None,
    seed: int = 0,
    precision: Precision = "auto",
    device: str | torch.device | None = None,
    optimizer: Callable[..., torch.optim.Optimizer] | None = None,
    after_step: Callable[[nn.Module], None] | None = None,
    progress: str = "training",
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 200,
) -> History:
    """Minimize `loss(module, x, y)` over the module's trainable parameters, in place, for `steps`
    SGD steps.

    A batch is `batch_size` samples per rank from an endless reshuffled repetition of the data; one
    draw of the global generator, seeded with `seed` plus the rank, serves dropout, augmentation and
    whatever the loss draws. `schedule` maps the spent share of the budget to a factor on `lr`;
    `clip` is the largest norm of all gradients together, beyond which they are scaled down to it;
    `augment` changes a batch of images; `after_step` may project the module (a mask, a constraint);
    `optimizer(params, lr=lr)` replaces SGD. `precision` is that of the forward pass: "auto" is bf16
    where the hardware has it. `device` None takes the GPU where there is one; the module stays
    where it was trained, in eval mode. Under `torchrun`, gradients are averaged over all ranks.

    With `checkpoint`, the state is saved there every `checkpoint_every` steps and at the end, and a
    later call with the same arguments goes on from it to the identical result.

    Raises BadInput where steps, batch_size, lr or clip are not positive or weight_decay is
    negative, nothing trains, the loss stops being finite, precision or device is unknown, or the
    checkpoint is of another run.

    >>> from isthmus import Data
    >>> data = Data(torch.rand(8, 1, 2, 2), torch.arange(8) % 2, classes=2)
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> fit(net, data, steps=20, lr=0.1).steps
    20
    """
    check_budget(steps, lr, batch_size, weight_decay, clip)
    data, place, here = as_data(data), pick_device(device), ranks()
    precision = chosen_precision(place, precision)
    module.to(place)
    share_from_first([*module.parameters(), *module.buffers()])
    last = takes_channels_last(module, data.x)
    set_channels_last(module.train(), last)
    trainable = _trainable(module)
    make = optimizer or partial(
        torch.optim.SGD, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay
    )
    history = History(steps, lr, batch_size, seed, precision, data.sha256, here.world)
    identity = _identity(
        history,
        module if checkpoint else None,
        momentum=momentum,
        weight_decay=weight_decay,
        clip=clip,
        nesterov=nesterov,
        schedule=schedule,
        augment=augment,
        loss=loss,
        optimizer=optimizer,
        after_step=after_step,
    )
    run = _Run(
        module, make(trainable, lr=lr), history, identity, torch.zeros((), device=place), clip
    )
    file = Path(checkpoint) if checkpoint else None
    with _seeded(seed + here.rank):
        if file and file.exists():
            run.load(file)
        began = time.perf_counter() - history.seconds
        with bar(progress, steps, run.step) as advance:
            while run.step < steps:
                for group in run.optimizer.param_groups:
                    group["lr"] = lr * schedule(run.step / steps)
                index = batch_indices(len(data), batch_size, run.step, seed, here.rank, here.world)
                x = data.x[index]
                x = as_input(augment(x) if augment else x, place, channels_last=last)
                with at_share(run.step / steps):
                    run.take(loss, x, data.y[index].to(place), precision)
                if after_step:
                    after_step(module)
                history.seconds = time.perf_counter() - began
                if file and (run.step % checkpoint_every == 0 or run.step == steps):
                    run.save(file)
                advance(f"loss {history.losses[-1]:.3f}" if history.losses else "")
    share_from_first(module.buffers())
    set_channels_last(module, False)
    module.eval()
    return history
