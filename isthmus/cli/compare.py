"""`isthmus compare`: the path and its rivals on one checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path as File
from typing import TYPE_CHECKING, Any

from isthmus import curves, data, defenses, evidence, metrics, runs, training
from isthmus.cli.checks import unclaimed
from isthmus.cli.estimate import Part, pace_of, parts_of, say_estimate, together
from isthmus.cli.inputs import load_network, load_samples
from isthmus.cli.minutes import TimeLimit
from isthmus.cli.options import Budget, Clean, EvaluationOptions, Evasion, InputFile, ModelSpec
from isthmus.cli.output import metric_table, say, say_health

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

    from isthmus.data import Data
    from isthmus.evidence import Value
    from isthmus.evidence.record import ComparisonRow
    from isthmus.training import Training
    from isthmus.types import Defense, Metric


POINTS = 21
"""How many points the path measures before it chooses."""

LEAST_STEPS = 10
"""With fewer steps no defense is one."""


def compare_command(
    tampered: InputFile,
    *,
    model: ModelSpec,
    clean: Clean,
    out: File,
    evaluation: EvaluationOptions = EvaluationOptions(),
    evasion: Evasion = Evasion(),
    budget: Budget = Budget(),
    limit: TimeLimit = TimeLimit(),
    resume: bool = False,
) -> None:
    """Repair a checkpoint by the path and by other defenses.

    All get the same samples and the same budget, and none sees the trigger: --trigger and --target
    measure afterward, and so does --attack. Every defense has its published settings
    (docs/defenses.md), the path those of our comparison. Without --data a fifth of the clean
    samples is held out to measure on. Writes OUT/compare.json; every row is saved as soon as it is
    computed.

    :param tampered: The checkpoint to repair.
    :param out: A new folder for the table.
    :param resume: Go on with the run that OUT holds.
    """
    limit.check("--steps", given=budget.steps is not None)
    unclaimed(out, resume=resume)
    evaluation.check()
    samples = load_samples(clean)
    judge = replace(evaluation.judge(samples), attack=evasion.chosen(samples))
    if judge.evaluation is not None:
        fitted, held_out = samples, samples
    else:
        fitted, held_out = data.hold_out(samples, data.HOLDOUT, budget.seed)
    questions = judge.metrics(held_out)
    if judge.evaluation is None:
        questions = judge.metrics_with_bonafide(held_out)
    network = load_network(model, tampered)
    evasion.check_layers(network)
    trained = budget.training(curves.CURVE_TRAINING)
    metrics.check_above_chance(network, samples)
    identity = {
        "model": model.spec,
        "checkpoint": runs.file_sha256(tampered),
        "clean": samples.sha256,
        **_told(evaluation, budget, limit),
        "attack": None if judge.attack is None else runs.identity_of(judge.attack),
    }
    with runs.claimed(out, identity, resume=resume, defaults=_told()):
        trained = training.with_decided_precision(trained, network, fitted, out)
        trained = _within(limit, trained, network, fitted, questions, out / runs.DECISIONS)
        contestants = _contestants(trained)
        before = metrics.measure(network, questions)
        rows = evidence.comparison.compare(
            contestants, network, fitted, questions, folder=out / "rows"
        )
        if runs.ranks().first:
            origin = evidence.provenance(budget.seed, {"clean": fitted, **judge.data()})
            table = {
                "provenance": origin.record(),
                "as received": metrics.as_records(before),
                "rows": [row.record() for row in rows],
            }
            runs.write_json(out / "compare.json", table)
    _say_rows(evidence.values_of(before), rows)


def _told(
    evaluation: EvaluationOptions = EvaluationOptions(),
    budget: Budget = Budget(),
    limit: TimeLimit = TimeLimit(),
) -> dict[str, Any]:
    """Return what options say of a run."""
    return {**vars(budget), **vars(limit), **vars(evaluation)}


def _within(
    limit: TimeLimit,
    trained: Training,
    network: nn.Module,
    samples: Data,
    questions: Mapping[str, Metric],
    file: File,
) -> Training:
    """Return the training with as many steps as the time allows; say how long all rows take."""
    measured = pace_of(network, samples, trained)
    rows = _contestants(trained)
    gradients = sum(defense.gradients for defense in rows.values())
    batches = gradients * trained.batch_size
    path = Part("choice of t", POINTS * len(samples))
    report = together("measuring", parts_of(questions)).times(len(rows) + 1)
    default = trained.steps
    one = Part("training", trained=batches / default)
    if limit.minutes is not None:
        fixed = [path, report]
        steps = limit.amount(
            "steps", measured, fixed, one, least=LEAST_STEPS, most=default, file=file
        )
        trained = trained.replace(steps=steps)
    note = limit.words("steps", trained.steps, default)
    parts = [one.times(trained.steps), path, report]
    say_estimate(network, samples, parts, training=trained, measured=measured, note=note)
    return trained


def _say_rows(received: Mapping[str, Value], rows: Sequence[ComparisonRow]) -> None:
    """Print the table, and why a defense is not in it."""
    measured = [(row.name, row.measures) for row in rows if isinstance(row, evidence.Measured)]
    say(metric_table("network", [("as received", received), *measured]))
    say_health([("as received", received), *measured])
    for row in rows:
        if isinstance(row, evidence.Refused):
            say(f"{row.name} was not run: {row.refused}")


def _contestants(trained: Training) -> dict[str, Defense]:
    """Return the path and its rivals, all with as many gradients as the path."""
    spent = curves.network_budget(trained, cost=curves.DEFAULT_ROUTE.cost)
    path = defenses.AlongPath(trained.replace(steps=spent.steps))
    return {"path": path, **defenses.all_rivals(spent)}
