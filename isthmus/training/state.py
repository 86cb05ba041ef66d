"""The state of a training run: what it holds, where it is saved, how an interrupted run goes on."""

from __future__ import annotations

import hashlib
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from isthmus.models.batchnorm import layers_with_statistics
from isthmus.models.forward import explain_single_sample_batch
from isthmus.models.memory import GradientPasses
from isthmus.runs.devices import Precision, autocast
from isthmus.runs.draws import random_state, set_random_state
from isthmus.runs.files import check_sums, write_atomically
from isthmus.runs.folder import differing
from isthmus.runs.identity import identity_of, sha256_of
from isthmus.runs.processes import average, gathered, ranks, share_from_first
from isthmus.training.budget import History, Training
from isthmus.training.clipping import clip_gradients
from isthmus.training.hooks import AfterStep
from isthmus.training.sharding import shared_optimizer_state, shared_state, whole_on_first
from isthmus.training.share import at_share
from isthmus.types import BadInput, Loss

UNREADABLE = (
    pickle.UnpicklingError,
    OSError,
    RuntimeError,
    EOFError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    zipfile.BadZipFile,
)
"""What torch raises for files that hold no training state."""


class Diverged(BadInput):
    """A training whose loss is no longer a number: its rate is too large."""


def _fingerprint(module: nn.Module) -> str:
    """Return a hash of where training starts: the module as it prints, which holds the settings of
    its layers, every tensor by name, and what trains.
    """
    named = dict([*module.named_parameters(), *module.named_buffers()])
    names = [(name, tensor.requires_grad) for name, tensor in named.items()]
    printed = re.sub(r" at 0x[0-9a-f]+", "", repr(module))  # an address differs in each process
    text = f"{type(module).__qualname__} {printed} {names} {sha256_of(*named.values())}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _told(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as an identity holds them: numbers and texts as they are, others by name."""
    return {
        name: value if isinstance(value, (int, float, str)) else identity_of(value)
        for name, value in options.items()
    }


def _defaults() -> dict[str, Any]:
    """Return the options of a training that have a default; a state which is older than one of them
    does not say it.
    """
    return {
        option.name: option.default
        for option in fields(Training)
        if option.repr and option.default is not MISSING
    }


def held_precision(file: Path | None) -> Precision | None:
    """Return the precision of the training whose state is in the file; None where there is none, or
    the file is no such state, which `TrainingRun.load` refuses.
    """
    if file is None or not file.exists():
        return None
    try:
        check_sums(file)
        state = torch.load(file, weights_only=True, map_location="cpu", mmap=True)
        precision = state["identity"]["precision"]
    except UNREADABLE:
        return None
    return precision if precision in ("fp32", "bf16") else None


@dataclass
class TrainingRun:
    """A training run: what it trains and how, what changes with its steps, how it is resumed.

    `training` has its precision resolved. `total` is the sum of the losses since the last note, a
    scalar on the module's device. `passes` are as large as memory allows.
    """

    module: nn.Module
    loss: Loss
    training: Training
    after_step: AfterStep | None
    optimizer: torch.optim.Optimizer
    history: History
    total: Tensor
    step: int = 0
    since: int = 0
    passes: GradientPasses = field(default_factory=GradientPasses)

    def identity(self) -> dict[str, Any]:
        """Return what the run is recognized by: its options, its data, where it starts.

        To be called before the first step, since it reads the weights.
        """
        options = {
            option.name: getattr(self.training, option.name)
            for option in fields(self.training)
            if option.repr
        }
        return {
            **_told({**options, "loss": self.loss, "after_step": self.after_step}),
            "world": self.history.world,
            "data": self.history.data_sha256,
            "module": _fingerprint(self.module),
        }

    def save(self, file: Path, identity: dict[str, Any]) -> None:
        """Write the state of the run: the first rank's, with every rank's random state."""
        states = gathered(random_state())
        share_from_first(self.module.buffers())
        module, optimizer = self.module.state_dict(), self.optimizer.state_dict()
        if self.training.shard:
            module, optimizer = whole_on_first(module), whole_on_first(optimizer)
        if not ranks().first:
            return
        state = {
            "identity": identity,
            "step": self.step,
            "since": self.since,
            "most": self.passes.most,
            "total": self.total,
            "module": module,
            "optimizer": optimizer,
            "random": states,
            "losses": self.history.losses,
            "seconds": self.history.seconds,
        }
        write_atomically(file, lambda path: torch.save(state, path))

    def load(self, file: Path, identity: dict[str, Any]) -> None:
        """Resume the run from the file. Raises BadInput where the file is of another run."""
        try:
            check_sums(file)
            state = torch.load(file, weights_only=True, map_location="cpu")
            difference = differing(state["identity"], identity, _told(_defaults()))
            if not difference:
                self._take_up(state)
        except UNREADABLE as error:
            raise BadInput(
                f"{file}, which is no training state",
                expected="what an earlier call wrote there",
                fix="pass another path as checkpoint, or delete this file",
            ) from error
        if difference:
            raise BadInput(
                f"{file}, the training state of a different run ({difference})",
                expected="the state of this run",
                fix="pass another path as checkpoint, or the settings of that run",
            )

    def _take_up(self, state: dict[str, Any]) -> None:
        """Go on from a saved state. Raises one of UNREADABLE where it is damaged."""
        step, since, losses = state["step"], state["since"], state["losses"]
        if not (0 <= since <= step <= self.training.steps and len(losses) <= step):
            raise ValueError("steps and losses do not belong together")
        most, total, seconds = state.get("most"), state["total"], state["seconds"]
        self.passes.most = None if most is None else int(most)
        self.total = total.to(self.total.device)
        self.step, self.since = int(step), int(since)
        self.history.losses = [float(loss) for loss in losses]
        self.history.seconds = float(seconds)
        module, optimizer = state["module"], state["optimizer"]
        if self.training.shard:
            module = shared_state(module, self.module)
            optimizer = shared_optimizer_state(optimizer, self.module)
        self.module.load_state_dict(module)
        self.optimizer.load_state_dict(optimizer)
        set_random_state(state["random"][ranks().rank])

    def take(self, x: Tensor, y: Tensor) -> None:
        """Take one step on the batch, on the mean of all ranks' gradients."""
        spent = self.step / self.training.steps
        for group in self.optimizer.param_groups:
            group["lr"] = self.training.lr * self.training.schedule(spent)
        value = self.passes.step(lambda: self._graded(x, y, spent), len(x))
        if not self.training.shard:  # where torch has done so
            average([p.grad for p in self.module.parameters() if p.grad is not None])
        if self.training.clip is not None:
            clip_gradients(self.module, self.training.clip)
        self.optimizer.step()
        self.total += value
        self.step += 1
        self.since += 1
        if self.step == self.training.steps:
            self._check_result()
        if self.step * 10 // self.training.steps > len(self.history.losses):
            self.note()
        if self.after_step is not None:
            self.after_step(self.module)

    def _graded(self, x: Tensor, y: Tensor, spent: float) -> Tensor:
        """Compute the gradients of a step, and return the loss without its graph."""
        self.optimizer.zero_grad(set_to_none=True)
        forward = autocast(x.device, self.training.precision)
        with at_share(spent):
            with forward, explain_single_sample_batch():
                value = self.loss(self.module, x, y)
            value.backward()
        if self.training.shard and ranks().world > 1:
            after_backward: Any = self.module.after_backward
            after_backward()
        return value.detach()

    def _check_result(self) -> None:
        """Raise Diverged where the last step, whose loss nobody computes, has left the numbers, or
        what BatchNorm saw of any step has: it trains with the batch's own statistics, and the loss
        may stay finite.
        """
        trained = [p.detach() for p in self.module.parameters() if p.requires_grad]
        mine = [p.to_local() if hasattr(p, "to_local") else p for p in trained]  # a shard's part
        seen = [value for layer in layers_with_statistics(self.module) for value in layer.buffers()]
        for what, values in (("weights", mine), ("statistics of BatchNorm", seen)):
            if not all(gathered(all(bool(value.isfinite().all()) for value in values))):
                raise Diverged(
                    f"{what} that are NaN or infinite after the last step",
                    expected=f"finite {what}",
                    fix=self._way_out(),
                )

    def _way_out(self) -> str:
        exact = "" if self.training.precision == "fp32" else ", or pass precision='fp32'"
        return f"lower lr (now {self.training.lr:g}){exact}"

    def note(self) -> None:
        """Add the mean loss since the last note. Raises BadInput where training has left the
        numbers.
        """
        average([self.total])
        mean = float(self.total) / self.since
        if not isfinite(mean):
            raise Diverged(
                f"a loss of {mean} before step {self.step}",
                expected="a finite loss",
                fix=self._way_out(),
            )
        self.history.losses.append(mean)
        self.total = torch.zeros_like(self.total)
        self.since = 0
