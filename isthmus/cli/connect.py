"""`isthmus connect`: a curve of low loss between two checkpoints."""

from __future__ import annotations

from pathlib import Path as File
from typing import Literal

from isthmus.cli.app import app
from isthmus.cli.options import KINDS, Budget, Clean, Hardening, ModelSpec
from isthmus.cli.output import load_network, metadata, say, state_file
from isthmus.curves.connection import connect
from isthmus.curves.file import save_curve
from isthmus.curves.route import CURVE_TRAINING, Route
from isthmus.data.sources.spec import load_data
from isthmus.evidence.origin import provenance
from isthmus.metrics.accuracy import check_above_chance
from isthmus.runs.processes import ranks


@app.command(name="connect")
def connect_command(
    start: File,
    end: File,
    *,
    model: ModelSpec,
    clean: Clean,
    out: File,
    bends: int = 1,
    kind: Literal["bezier", "polychain"] = "bezier",
    rho: float = 0.0,
    adaptive: bool = True,
    low: float = 0.0,
    high: float = 1.0,
    hardening: Hardening | None = None,
    budget: Budget | None = None,
    resume: bool = False,
) -> None:
    """Train a curve of low loss from START to END on clean samples and write its bends to OUT
    (.safetensors).
    """
    budget, hardening, samples = budget or Budget(), hardening or Hardening(), load_data(clean)
    loss, (fitted, held_out) = hardening.value(samples), hardening.parts(samples, budget.seed)
    state, ends = state_file(out, resume), (load_network(model, start), load_network(model, end))
    for each in ends:
        check_above_chance(each, samples)
    curve, history = connect(
        ends[0],
        ends[1],
        fitted,
        route=Route(KINDS[kind], bends, loss, rho, adaptive, low, high),
        training=budget.training(CURVE_TRAINING),
        after_step=hardening.check(held_out),
        checkpoint=state,
    )
    if ranks().first:
        save_curve(
            curve,
            out,
            start=start,
            end=end,
            metadata=metadata(provenance(budget.seed, {"clean": samples})),
        )
        state.unlink(missing_ok=True)
    say(
        f"wrote {out}: {kind}, {bends} bends, {history.steps if history else 0} steps, length {curve.arc_length():.2f}"
    )
