"""`isthmus train`: a network from scratch, or from a checkpoint."""

from __future__ import annotations

from functools import partial
from shutil import rmtree
from typing import TYPE_CHECKING, Literal

from isthmus import evidence, metrics, models, runs, training
from isthmus.cli.checks import state_beside
from isthmus.cli.estimate import Part, pace_of, say_estimate
from isthmus.cli.inputs import load_plain_network, load_samples
from isthmus.cli.minutes import TimeLimit
from isthmus.cli.options import (
    InputFile,
    ModelSpec,
    NetworkBudget,
    NewFile,
    RobustTraining,
    Samples,
)
from isthmus.cli.output import metadata, say

if TYPE_CHECKING:
    from pathlib import Path as File

    from torch import nn

    from isthmus.data import Data
    from isthmus.training import Training


def train_command(
    *,
    model: ModelSpec,
    data: Samples,
    out: NewFile,
    init: InputFile | None = None,
    optimizer: Literal["sgd", "adamw"] = "sgd",
    robust: RobustTraining = RobustTraining(),
    budget: NetworkBudget = NetworkBudget(),
    limit: TimeLimit = TimeLimit(),
    resume: bool = False,
) -> None:
    """Train a network and write it as a checkpoint.

    :param data: Training samples: a named set, Parquet, image folder or .npz.
    :param out: A new file for the network (.safetensors).
    :param init: Start from this checkpoint instead of random weights.
    :param optimizer: sgd, with Nesterov's momentum, or adamw, which transformers want.
    :param resume: Go on with an interrupted run of the same command.
    """
    import torch

    limit.check("--steps", given=budget.steps is not None)
    state = state_beside(out, resume=resume)
    home = _home(state)
    if not resume:
        rmtree(home, ignore_errors=True)
    samples = load_samples(data)
    loss = robust.objective(samples)
    fitted, held_out = robust.parts(samples, budget.seed)
    torch.manual_seed(budget.seed)
    network = load_plain_network(model, init) if init else models.model_factory(model.spec)()
    models.check_savable(network)  # before hours of training
    metrics.check_fits(network, samples)
    with runs.remembering(home, state):
        cost = training.gradients_per_step(loss)
        trained = _decided(_optimized(optimizer, budget), network, fitted, cost, limit, home)
        history = training.fit(
            network,
            fitted,
            loss,
            training=trained,
            after_step=robust.check(held_out),
            checkpoint=state,
        )
    if runs.ranks().first:
        origin = evidence.provenance(budget.seed, {"train": samples})
        models.save_checkpoint(network, out, metadata(origin))
        state.unlink(missing_ok=True)
        rmtree(home, ignore_errors=True)
    say(
        f"wrote {out}: {history.steps} steps in {runs.duration(history.seconds)}, last loss "
        f"{history.losses[-1]:.3f}"
    )


def _optimized(optimizer: str, budget: NetworkBudget) -> Training:
    """Return the budget as a training by this optimizer."""
    import torch

    scratch = training.Training(steps=800, lr=0.1, schedule=training.one_cycle, nesterov=True)
    if optimizer == "adamw":
        adamw = partial(torch.optim.AdamW, weight_decay=budget.weight_decay)
        scratch = scratch.replace(lr=0.001, nesterov=False, optimizer=adamw)
    return budget.training(scratch)


def _decided(
    trained: Training, network: nn.Module, samples: Data, cost: int, limit: TimeLimit, home: File
) -> Training:
    """Return the training with its precision decided, and its steps where a time is given; say how
    long it takes. `cost` is how many gradients a step takes.
    """
    trained = training.with_decided_precision(trained, network, samples, home)
    network.to(runs.pick_device(trained.device))
    measured = pace_of(network, samples, trained)
    step = Part("training", trained=cost * trained.batch_size)
    if limit.minutes is not None:
        steps = limit.amount("steps", measured, [], step, file=home / runs.DECISIONS)
        trained = trained.replace(steps=steps)
    note = limit.words("steps", trained.steps)
    parts = [step.times(trained.steps)]
    say_estimate(network, samples, parts, training=trained, measured=measured, note=note)
    return trained


def _home(state: File) -> File:
    """Return the hidden folder that remembers what a training decides, until it is done."""
    return state.with_suffix(".run")
