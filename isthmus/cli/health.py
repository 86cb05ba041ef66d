"""`isthmus health`: whether a robust accuracy can be trusted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path as File
from typing import Annotated

from cyclopts import Parameter

from isthmus import evidence, metrics, runs
from isthmus.cli.checks import unclaimed
from isthmus.cli.inputs import load_network, load_samples
from isthmus.cli.options import Evasion, InputFile, ModelSpec, Samples, Whole
from isthmus.cli.output import say

RESTARTS = 5
"""How often PGD starts anew where no attack is named: enough to see whether starts agree."""


def health_command(
    checkpoint: InputFile,
    *,
    model: ModelSpec,
    samples: Annotated[Samples, Parameter(name="--data")],
    out: File,
    evasion: Evasion = Evasion(),
    seed: Whole = 0,
    device: str = "auto",
) -> None:
    """Say whether a robust accuracy can be trusted.

    Runs the attack, by default PGD with five restarts, and asks what it left: did it climb to a
    maximum, do its starts agree, was there a gradient, does a stronger or a blind attack fool more?
    Writes OUT/report.json and OUT/report.html with every indicator, its threshold and what to do. A
    run that is interrupted starts over.

    :param checkpoint: The network to attack.
    :param samples: Evaluation samples: a named set, Parquet, image folder or .npz.
    :param out: A new or empty folder for the report.
    :param seed: Seed of the attack's random starts.
    :param device: cpu, cuda, cuda:1, mps or auto.
    """
    unclaimed(out, resume=None)
    evaluation = load_samples(samples)
    attack = _chosen(evasion).named(evasion.attack or "pgd", evaluation, seed)
    network = load_network(model, checkpoint).to(runs.pick_device(device))
    evasion.check_layers(network)
    metrics.check_above_chance(network, evaluation)
    identity = {
        "command": "health",
        "model": model.spec,
        "checkpoint": runs.file_sha256(checkpoint),
        "data": evaluation.sha256,
        "attack": runs.identity_of(attack),
    }
    with runs.claimed(out, identity, resume=None):
        report = evidence.attack_health(
            network,
            evaluation,
            attack,
            network=checkpoint.name,
            provenance=evidence.network_provenance(seed, {"data": evaluation}, checkpoint),
        )
        written, page = evidence.write_report(report, out)
    _say(report)
    say(f"wrote {written} and {page}")


def _chosen(evasion: Evasion) -> Evasion:
    """Return the options, with five restarts of PGD where nothing else is said."""
    if evasion.attack is not None or evasion.restarts is not None:
        return evasion
    return replace(evasion, restarts=RESTARTS)


def _say(report: evidence.AttackHealth) -> None:
    """Print every indicator, the verdict and the warnings."""
    shown = evidence.words.digits
    rows = [
        (
            row.name,
            "" if row.value is None else shown(row.value),
            "" if row.threshold is None else f"{'<' if row.below else '>'} {shown(row.threshold)}",
            "decisive" if row.decisive else "",
            "fired" if row.fired else "",
        )
        for row in report.indicators
    ]
    heads = ("indicator", "value", "fires", "", "")
    say(evidence.tables.terminal_table(heads, rows))
    say(report.verdict)
    assert report.robust.health is not None
    for warning in report.robust.health.warnings:
        say(f"- {warning}")
