"""`isthmus train`: a network from scratch, or from a checkpoint."""

from __future__ import annotations

from isthmus import evidence, metrics, models, runs, training
from isthmus.cli.checks import state_beside
from isthmus.cli.inputs import load_network, load_samples
from isthmus.cli.options import (
    Budget,
    InputFile,
    ModelSpec,
    NewFile,
    RobustTraining,
    Samples,
)
from isthmus.cli.output import metadata, say


def train_command(
    *,
    model: ModelSpec,
    data: Samples,
    out: NewFile,
    init: InputFile | None = None,
    robust: RobustTraining = RobustTraining(),
    budget: Budget = Budget(),
    resume: bool = False,
) -> None:
    """Train a network and write it as a checkpoint.

    :param data: Training samples: a named set, Parquet, image folder or .npz.
    :param out: A new file for the network (.safetensors).
    :param init: Start from this checkpoint instead of random weights.
    :param resume: Go on with an interrupted run of the same command.
    """
    import torch

    state = state_beside(out, resume=resume)
    samples = load_samples(data)
    loss = robust.objective(samples)
    fitted, held_out = robust.parts(samples, budget.seed)
    torch.manual_seed(budget.seed)
    network = load_network(model, init) if init else models.model_factory(model.spec)()
    metrics.logits(network, samples[:1])  # refuses images and classes that do not fit the network
    scratch = training.Training(steps=800, lr=0.1, schedule=training.one_cycle, nesterov=True)
    history = training.fit(
        network,
        fitted,
        loss,
        training=budget.training(scratch),
        after_step=robust.check(held_out),
        checkpoint=state,
    )
    if runs.ranks().first:
        origin = evidence.provenance(budget.seed, {"train": samples})
        models.save_checkpoint(network, out, metadata(origin))
        state.unlink(missing_ok=True)
    say(
        f"wrote {out}: {history.steps} steps in {history.seconds:.0f} s, last loss "
        f"{history.losses[-1]:.3f}"
    )
