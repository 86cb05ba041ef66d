"""`isthmus compare`: the path and its rivals on one checkpoint."""

from __future__ import annotations

from pathlib import Path as File

from isthmus.cli.app import app
from isthmus.cli.options import Asked, Budget, Clean, ModelSpec
from isthmus.cli.output import load_network, metric_table, say
from isthmus.curves.route import CURVE_TRAINING, DEFAULT_ROUTE, network_budget
from isthmus.data.sources.spec import load_data
from isthmus.data.splits import HOLDOUT, hold_out
from isthmus.defenses.curve_repair.along_path import AlongPath
from isthmus.defenses.rivals.table import all_rivals
from isthmus.evidence import comparison
from isthmus.evidence.origin import provenance
from isthmus.evidence.record import Measured, Refused, values_of
from isthmus.metrics.accuracy import check_above_chance
from isthmus.metrics.question import measure
from isthmus.metrics.values import as_records
from isthmus.runs.files import file_sha256, write_json
from isthmus.runs.folder import claimed
from isthmus.runs.processes import ranks


@app.command(name="compare")
def compare_command(
    tampered: File,
    *,
    model: ModelSpec,
    clean: Clean,
    out: File,
    asked: Asked | None = None,
    budget: Budget | None = None,
    resume: bool = False,
) -> None:
    """Repair TAMPERED by the path and by ten other defenses, and write OUT/compare.json.

    Same samples, same budget, no trigger: --trigger and --target measure afterwards. Every defense
    has its published settings (docs/defenses.md), the path those of our bake-off. Without --data a
    fifth of the clean samples is kept back to measure on. Every row is kept as soon as it is
    computed.

    :param out: A new folder for the table.
    :param resume: Go on with the run that OUT holds.
    """
    budget, asked, samples = budget or Budget(), asked or Asked(), load_data(clean)
    judge = asked.judge().apart_from(samples)
    fitted, held_out = (
        (samples, samples) if judge.evaluation else hold_out(samples, HOLDOUT, budget.seed)
    )
    metrics = judge.metrics(held_out)
    if judge.evaluation is None:
        metrics = judge.metrics_with_bonafide(held_out)
    net = load_network(model, tampered)
    check_above_chance(net, samples)
    training = budget.training(CURVE_TRAINING)
    spent = network_budget(training, cost=DEFAULT_ROUTE.cost)
    defenses = {"path": AlongPath(training.replace(steps=spent.steps)), **all_rivals(spent)}
    identity = {"model": model, "checkpoint": file_sha256(tampered), "clean": samples.sha256}
    with claimed(out, {**identity, **vars(budget), **vars(asked)}, resume=resume):
        before = measure(net, metrics)
        rows = comparison.compare(defenses, net, fitted, metrics, folder=out / "rows")
        origin = provenance(budget.seed, {"clean": fitted, **judge.data()})
        if ranks().first:
            table = {
                "provenance": origin,
                "as received": as_records(before),
                "rows": [row.record() for row in rows],
            }
            write_json(out / "compare.json", table)
    measured = [(row.name, row.measures) for row in rows if isinstance(row, Measured)]
    say(metric_table("network", [("as received", values_of(before)), *measured]))
    for row in rows:
        if isinstance(row, Refused):
            say(f"{row.name} was not run: {row.refused}")
