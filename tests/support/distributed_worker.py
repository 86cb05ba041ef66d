"""Trainings that run in processes of their own, to be killed or compared there; see
`test_train`."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from pathlib import Path

import torch
from support.networks import data, network, pair
from torch import Tensor, nn

from isthmus import Augment, Bezier, expected_over_t, fit
from isthmus.models import precision
from isthmus.runs.processes import joined_ranks
from isthmus.training import Training, cross_entropy, with_decided_precision
from isthmus.types import Loss

points: list[float] = []


def recording(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy that notes which point of a curve it was asked about."""
    points.append(float(model.theta.detach().double().norm()) if hasattr(model, "theta") else 0.0)
    return cross_entropy(model, x, y)


class Stop:
    """A projection that changes nothing, and ends the process or the run after some step."""

    def __init__(self) -> None:
        self.never()

    def never(self) -> None:
        self.left, self.how = -1, lambda: None

    def after(self, steps: int, how) -> None:
        self.left, self.how = steps, how

    def __call__(self, module: nn.Module) -> None:
        self.left -= 1
        if self.left == 0:
            self.how()


stop = Stop()


def step_done(module: nn.Module) -> None:
    stop(module)


def job(kind: str) -> tuple[nn.Module, Loss]:
    """A network or a curve, and its loss: BatchNorm, dropout, augmentation and the curve's t all
    draw or remember.
    """
    if kind == "network":
        return network("batchnorm", 1), recording
    return Bezier(*pair("batchnorm")), expected_over_t(recording, 0.01)


OPTIONS = {
    "steps": 24,
    "lr": 0.05,
    "batch_size": 8,
    "augment": Augment(1),
    "seed": 3,
    "precision": "fp32",
    "device": "cpu",
    "after_step": step_done,
    "checkpoint_every": 7,
}


def killed(kind: str, checkpoint: str) -> None:
    """Train until this process kills itself, as a system out of memory would; the state on disk is
    of step 14.
    """
    stop.after(17, lambda: os.kill(os.getpid(), signal.SIGKILL))
    module, loss = job(kind)
    fit(module, data(), loss, checkpoint=checkpoint, **OPTIONS)


def interrupt() -> None:
    raise KeyboardInterrupt


def under_torchrun(folder: Path) -> None:
    """Train both jobs on every rank, once through and once interrupted; leave what each rank ended
    with.
    """
    decide_precision(folder)
    for kind in ("network", "curve"):
        points.clear()
        through, loss = job(kind)
        history = fit(through, data(), loss, **OPTIONS)
        result = {"points": list(points), "losses": history.losses, "world": history.world}
        stop.after(17, interrupt)
        try:
            fit(job(kind)[0], data(), loss, checkpoint=folder / kind, **OPTIONS)
        except KeyboardInterrupt:
            stop.never()
        resumed = job(kind)[0]
        fit(resumed, data(), loss, checkpoint=folder / kind, **OPTIONS)
        result |= {"through": through.state_dict(), "resumed": resumed.state_dict()}
        torch.save(result, folder / f"{kind}-{os.environ['RANK']}.pt")


def decide_precision(folder: Path) -> None:
    """Decide the precision of a run, of which only the first rank times steps, and of a training;
    leave what each rank then trains in.
    """
    told = os.environ.pop("ISTHMUS_PRECISION", None)
    precision.fast_precision = lambda device: "bf16"
    with joined_ranks():
        auto = Training(steps=2, lr=0.1, batch_size=8)
        kinds = [
            with_decided_precision(auto, network("linear"), data(), folder / "run").precision,
            fit(network("layernorm"), data(), training=auto).precision,
        ]
        (folder / f"precisions-{os.environ['RANK']}.txt").write_text(" ".join(kinds))
    if told is not None:
        os.environ["ISTHMUS_PRECISION"] = told


def leave_threads_to(folder: Path) -> None:
    """Write which threads are left of this process once the ranks have parted, where the system
    tells; those that compute have the name of the process. To be called before they meet: what is
    registered first is done last.
    """
    rank, own = os.environ["RANK"], Path("/proc/self/comm")

    def write() -> None:
        names = [task.read_text() for task in Path("/proc/self/task").glob("*/comm")]
        others = [name for name in names if name != own.read_text()]
        (folder / f"threads-{rank}.txt").write_text("".join(others))

    atexit.register(write)


if __name__ == "__main__":
    leave_threads_to(Path(sys.argv[1]))
    under_torchrun(Path(sys.argv[1]))
