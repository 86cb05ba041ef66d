"""The state of a training run: what it holds, where it is saved, how an interrupted run goes on."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from isthmus.models.forward import explain_single_sample_batch
from isthmus.runs.devices import Precision, autocast
from isthmus.runs.files import write_atomically
from isthmus.runs.folder import differing
from isthmus.runs.identity import identity_of, sha256_of
from isthmus.runs.processes import average, gathered, ranks, share_from_first
from isthmus.training.budget import History
from isthmus.types import BadInput, Loss


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
        except (
            pickle.UnpicklingError,
            OSError,
            RuntimeError,
            EOFError,
            LookupError,
            TypeError,
        ) as error:
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
        with autocast(x.device, precision), explain_single_sample_batch():
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
        """Add the mean loss since the last note. Raises BadInput where training has left the
        numbers.
        """
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
    return [
        torch.get_rng_state(),
        *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []),
    ]


def _set_random_state(state: list[Tensor]) -> None:
    torch.set_rng_state(state[0])
    if state[1:]:
        torch.cuda.set_rng_state_all(state[1:])


def _identity(history: History, module: nn.Module | None, **options: Any) -> dict[str, Any]:
    """Return what a run is recognized by: its budget, its data, where it starts (`module`), and
    every other option.
    """
    budget = {
        name: getattr(history, name)
        for name in ("steps", "lr", "batch_size", "seed", "precision", "world")
    }
    named = {
        name: each if isinstance(each, (int, float)) else identity_of(each)
        for name, each in options.items()
    }
    return {
        **budget,
        "data": history.data_sha256,
        **named,
        "module": _fingerprint(module) if module else "",
    }
