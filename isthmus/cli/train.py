"""`isthmus train`: a network from scratch."""

from __future__ import annotations

from pathlib import Path as File

import torch

from isthmus.cli.app import app
from isthmus.cli.options import Budget, Hardening, ModelSpec
from isthmus.cli.output import metadata, say, state_file
from isthmus.data.sources.spec import load_data
from isthmus.evidence.origin import provenance
from isthmus.metrics.passes import logits
from isthmus.models.checkpoint import save_checkpoint
from isthmus.models.factory import model_factory
from isthmus.runs.processes import ranks
from isthmus.training.budget import Training
from isthmus.training.loop import fit
from isthmus.training.schedules import one_cycle


@app.command
def train(
    *,
    model: ModelSpec,
    data: str,
    out: File,
    hardening: Hardening | None = None,
    budget: Budget | None = None,
    resume: bool = False,
) -> None:
    """Train a network from scratch and write it to OUT (.safetensors)."""
    budget, hardening, samples = budget or Budget(), hardening or Hardening(), load_data(data)
    loss, (fitted, held_out) = hardening.value(samples), hardening.parts(samples, budget.seed)
    torch.manual_seed(budget.seed)
    net = model_factory(model)()
    logits(net, samples[:1])  # refuses images and classes that the network does not fit
    state = state_file(out, resume)
    scratch = Training(steps=800, lr=0.1, schedule=one_cycle, nesterov=True)
    history = fit(
        net,
        fitted,
        loss,
        training=budget.training(scratch),
        after_step=hardening.check(held_out),
        checkpoint=state,
    )
    if ranks().first:
        save_checkpoint(net, out, metadata(provenance(budget.seed, {"train": samples})))
        state.unlink(missing_ok=True)
    say(
        f"wrote {out}: {history.steps} steps in {history.seconds:.0f} s, last loss {history.losses[-1]:.3f}"
    )
