"""`fit`: the one training loop. The budget is counted in SGD steps, whatever the number of samples.

Source: Zhao et al., ICLR 2020, and Garipov et al., NeurIPS 2018, for optimiser and schedule (specification, sections
3 and 16). Where we depart: batches are drawn from an endless reshuffled repetition of the data instead of a data set
tiled to a fixed size, so n = 50 and n = 2,500 get the same number of steps.
"""

from __future__ import annotations

import hashlib
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from math import inf, isfinite
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from isthmus.data import Source, as_data
from isthmus.engine import (
    Precision,
    as_input,
    autocast,
    average,
    chosen_precision,
    gathered,
    joined_ranks,
    pick_device,
    ranks,
    set_channels_last,
    several_samples,
    share_from_first,
    takes_channels_last,
)
from isthmus.files import differing, write_atomically
from isthmus.losses import cross_entropy
from isthmus.progress import bar
from isthmus.types import BadInput, Loss, describe, sha256_of

Schedule = Callable[[float], float]
"""Share of the budget that is spent, in [0, 1), to a factor on the learning rate."""


def garipov(spent: float) -> float:
    """Return 1 for the first half, a line down to 0.01 until 0.9, then 0.01 (Garipov et al., train.py).

    >>> [round(garipov(a), 3) for a in (0.0, 0.5, 0.7, 0.95)]
    [1.0, 1.0, 0.505, 0.01]
    """
    return 1.0 if spent <= 0.5 else 1 - 0.99 * (spent - 0.5) / 0.4 if spent <= 0.9 else 0.01


def one_cycle(spent: float) -> float:
    """Return a line from 0 up to 1 over the first 15 %, then a line down to 0: for training from scratch."""
    return spent / 0.15 if spent < 0.15 else (1 - spent) / 0.85


def constant(spent: float) -> float:
    """Return 1."""
    return 1.0


class Training(TypedDict, total=False):
    """The keyword options of `fit`, for functions that hand them on."""

    steps: int
    lr: float
    batch_size: int
    momentum: float
    weight_decay: float
    clip: float | None
    nesterov: bool
    schedule: Schedule
    augment: Callable[[Tensor], Tensor] | None
    seed: int
    precision: Precision
    device: str | torch.device | None
    progress: str
    checkpoint: str | Path | None
    checkpoint_every: int


@dataclass
class History:
    """What a training run was and how it went: options, mean loss of each tenth of the budget, seconds."""

    steps: int
    lr: float
    batch_size: int
    seed: int
    precision: str
    data_sha256: str
    world: int = 1
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0


@lru_cache(maxsize=4)
def _epoch(n: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))


def batch_indices(n: int, batch_size: int, step: int, seed: int, rank: int = 0, world: int = 1) -> Tensor:
    """Return which of n samples make up a rank's batch: a slice of the endless repetition of reshuffled epochs.

    A function of its arguments alone, so a resumed run needs no state; ranks take neighbouring slices.

    >>> torch.cat([batch_indices(5, 2, step, seed=0) for step in range(5)]).bincount().tolist()  # two epochs
    [2, 2, 2, 2, 2]
    """
    begin = (step * world + rank) * batch_size
    end, parts = begin + batch_size, []
    while begin < end:
        offset = begin % n
        parts.append(_epoch(n, seed, begin // n)[offset : offset + end - begin])
        begin += len(parts[-1])
    return torch.cat(parts)


def _fingerprint(module: nn.Module) -> str:
    """Return a hash of where training starts: class, every tensor by name, and what trains."""
    named = dict([*module.named_parameters(), *module.named_buffers()])
    names = [(name, tensor.requires_grad) for name, tensor in named.items()]
    text = f"{type(module).__qualname__} {names} {sha256_of(*named.values())}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass
class _Run:
    """What changes with the steps of a training run, and how it is kept and taken up again."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    history: History
    identity: dict[str, Any]
    total: Tensor
    clip: float | None = None
    step: int = 0
    since: int = 0

    def save(self, file: Path) -> None:
        """Write the state of the run: the first rank's, with every rank's random state."""
        states = gathered(_random_state())
        share_from_first(self.module.buffers())
        if not ranks().first:
            return
        state = {
            "identity": self.identity,
            "step": self.step,
            "since": self.since,
            "total": self.total,
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": states,
            "losses": self.history.losses,
            "seconds": self.history.seconds,
        }
        write_atomically(file, lambda path: torch.save(state, path))

    def load(self, file: Path) -> None:
        """Take up the run where the file left it. Raises BadInput where the file is of another run."""
        try:
            state = torch.load(file, weights_only=True, map_location="cpu")
            difference = differing(state["identity"], self.identity)
        except (pickle.UnpicklingError, OSError, RuntimeError, EOFError, LookupError, TypeError) as error:
            raise BadInput(
                f"{file}, which is no training state",
                expected="what an earlier call wrote there",
                fix="choose another place for the checkpoint",
            ) from error
        if difference:
            raise BadInput(
                f"{file}, the training state of a different run ({difference})",
                expected="the state of this run",
                fix="choose another file or the same settings",
            )
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.since = state["step"], state["since"]
        self.total = state["total"].to(self.total.device)
        self.history.losses, self.history.seconds = state["losses"], state["seconds"]
        _set_random_state(state["random"][ranks().rank])

    def take(self, loss: Loss, x: Tensor, y: Tensor, precision: Precision) -> None:
        """Take one SGD step on the batch, on the mean of all ranks' gradients."""
        with autocast(x.device, precision), several_samples():
            value = loss(self.module, x, y)
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()
        average([p.grad for p in self.module.parameters() if p.grad is not None])
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.module.parameters(), self.clip)
        self.optimizer.step()
        self.total += value.detach()
        self.step, self.since = self.step + 1, self.since + 1
        if self.step * 10 // self.history.steps > len(self.history.losses):
            self.note()

    def note(self) -> None:
        """Add the mean loss since the last note. Raises BadInput where training has left the numbers."""
        average([self.total])
        mean = float(self.total) / self.since
        if not isfinite(mean):
            raise BadInput(
                f"a loss of {mean} before step {self.step}",
                expected="a finite loss",
                fix=f"lower lr (now {self.history.lr:g}), or pass precision='fp32'",
            )
        self.history.losses.append(mean)
        self.total, self.since = torch.zeros_like(self.total), 0


def _random_state() -> list[Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]


def _set_random_state(state: list[Tensor]) -> None:
    torch.set_rng_state(state[0])
    if state[1:]:
        torch.cuda.set_rng_state_all(state[1:])


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw from a generator of our own within the block, and leave the caller's where it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def check_budget(steps: int, lr: float, batch_size: int, weight_decay: float, clip: float | None) -> None:
    """Refuse a budget that `fit` cannot spend. Raises BadInput."""
    if steps < 1 or batch_size < 1 or not 0 < lr < inf:
        raise BadInput(
            f"steps = {steps}, batch_size = {batch_size}, lr = {lr}", expected="all above zero", fix="choose a budget"
        )
    if not 0 <= weight_decay < inf:
        raise BadInput(f"weight_decay = {weight_decay:g}", expected="zero or more", fix="pass weight_decay=1e-4")
    if clip is not None and not 0 < clip < inf:
        raise BadInput(f"clip = {clip:g}", expected="a norm above zero, or None", fix="pass clip=None")


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    found = [p for p in module.parameters() if p.requires_grad and p.numel()]
    if not found:
        raise BadInput(
            "a module with nothing to train",
            expected="parameters that require gradients",
            fix="call requires_grad_() on some, or give the curve a bend",
        )
    return found


def _identity(history: History, module: nn.Module | None, **options: Any) -> dict[str, Any]:
    """Return what a run is recognised by: its budget, its data, where it starts (`module`), and every other option."""
    budget = {name: getattr(history, name) for name in ("steps", "lr", "batch_size", "seed", "precision", "world")}
    named = {name: each if isinstance(each, (int, float)) else describe(each) for name, each in options.items()}
    return {**budget, "data": history.data_sha256, **named, "module": _fingerprint(module) if module else ""}


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
    """Minimise `loss(module, x, y)` over the module's trainable parameters, in place, for `steps` SGD steps.

    A batch is `batch_size` samples per rank from an endless reshuffled repetition of the data; one draw of the global
    generator, seeded with `seed` plus the rank, serves dropout, augmentation and whatever the loss draws. `schedule`
    maps the spent share of the budget to a factor on `lr`; `clip` is the largest norm of all gradients together, beyond
    which they are scaled down to it; `augment` changes a batch of images; `after_step` may
    project the module (a mask, a constraint); `optimizer(params, lr=lr)` replaces SGD. `precision` is that of the
    forward pass: "auto" is bf16 where the hardware has it. `device` None takes the GPU where there is one; the module
    stays where it was trained, in eval mode. Under `torchrun`, gradients are averaged over all ranks.

    With `checkpoint`, the state is saved there every `checkpoint_every` steps and at the end, and a later call with
    the same arguments goes on from it to the identical result.

    Raises BadInput where steps, batch_size, lr or clip are not positive or weight_decay is negative, nothing trains,
    the loss stops being finite, precision or device is unknown, or the checkpoint is of another run.

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
    make = optimizer or partial(torch.optim.SGD, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)
    history = History(steps, lr, batch_size, seed, precision, data.sha256, here.world)
    identity = _identity(
        history, module if checkpoint else None, momentum=momentum, weight_decay=weight_decay, clip=clip,
        nesterov=nesterov, schedule=schedule, augment=augment, loss=loss, optimizer=optimizer, after_step=after_step,
    )  # fmt: skip
    run = _Run(module, make(trainable, lr=lr), history, identity, torch.zeros((), device=place), clip)
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
