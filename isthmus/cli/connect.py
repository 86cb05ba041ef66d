"""`isthmus connect`: a curve of low loss between two checkpoints."""

from __future__ import annotations

from isthmus import curves, evidence, metrics, models, runs
from isthmus.cli.checks import changed, state_beside, without_effect
from isthmus.cli.inputs import load_plain_network, load_samples
from isthmus.cli.options import (
    Budget,
    Clean,
    CurveOptions,
    InputFile,
    ModelSpec,
    NewFile,
    RobustTraining,
)
from isthmus.cli.output import metadata, say
from isthmus.runs.wording import counted


def connect_command(
    start: InputFile,
    end: InputFile,
    *,
    model: ModelSpec,
    clean: Clean,
    out: NewFile,
    curve: CurveOptions = CurveOptions(),
    robust: RobustTraining = RobustTraining(),
    budget: Budget = Budget(),
    resume: bool = False,
) -> None:
    """Train a curve of low loss between two checkpoints.

    The curve is trained on clean samples, and its bends are written to OUT.

    :param start: The checkpoint at t = 0.
    :param end: The checkpoint at t = 1, of the same architecture.
    :param out: A new file for the curve (.safetensors).
    :param resume: Go on with an interrupted run of the same command.
    """
    if curve.bends == 0:
        _check_untrained(curve, robust, budget)
    state = state_beside(out, resume=resume)
    samples = load_samples(clean)
    loss = robust.objective(samples)
    fitted, held_out = robust.parts(samples, budget.seed)
    networks = [load_plain_network(model, file) for file in (start, end)]
    models.tell_of_frozen_statistics(networks[0])
    for network in networks:
        metrics.check_above_chance(network, samples)
    route = curve.route(loss, curves.Route(rho=0.0, low=0.0, high=1.0))
    check = robust.check(held_out)
    curves.check_hook(route, check)
    trained = route.curve(*networks)
    del network
    networks.clear()  # their values are mapped from a file where they are large
    training = budget.training(curves.CURVE_TRAINING)
    history = curves.train_curve(
        trained, fitted, route, training, after_step=check, checkpoint=state
    )
    if runs.ranks().first:
        origin = metadata(evidence.provenance(budget.seed, {"clean": samples}))
        curves.save_curve(trained, out, start=start, end=end, metadata=origin)
        state.unlink(missing_ok=True)
    steps = counted(history.steps if history else 0, "step", "steps")
    bends = counted(route.bends, "bend", "bends")
    length = trained.arc_length()
    kind = route.kind.__name__.lower()
    say(f"wrote {out}: {kind}, {bends}, {steps}, length {length:.2f}")


def _check_untrained(curve: CurveOptions, robust: RobustTraining, budget: Budget) -> None:
    """Refuse options of a training that does not take place. Raises BadInput."""
    given = [name for name in curve.given() if name not in ("bends", "kind")]
    given += changed(robust)
    given += [name for name in changed(budget) if name != "seed"]
    without_effect(given, on="a straight curve (--bends 0), which is not trained")
