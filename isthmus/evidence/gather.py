"""The evidence of a repair, measured after the choice by the holder of evaluation data or the
trigger.

`repair` never sees what this file sees. The result is one plain record, the content of report.json;
its schema is `report.schema.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from isthmus.attacks.backdoors.reactivation import IMAGES, Reactivate
from isthmus.defenses.curve_repair.repair import Repair
from isthmus.defenses.curve_repair.rules import BONAFIDE
from isthmus.evidence.comparison import Row, compare
from isthmus.evidence.judge import Judge
from isthmus.metrics import landscape as surroundings
from isthmus.metrics.accuracy import per_class
from isthmus.metrics.question import measure
from isthmus.metrics.barrier import linear_barrier
from isthmus.metrics.path import Path, evaluate_path
from isthmus.metrics.values import as_record, as_records
from isthmus.runs.identity import identity_of
from isthmus.runs.wording import percent
from isthmus.types import Attack, Defense, Metric

Record = dict[str, Any]


STILL_WORKS = 0.1
"""The success rate from which on a report says that the tampering still works."""


STILL = {
    "attack success": "the backdoor still works",
    "injection success": "injected errors remain",
}


def evidence(
    found: Repair,
    tampered: nn.Module,
    judge: Judge | None = None,
    *,
    baselines: Mapping[str, Defense] | None = None,
    landscape: Attack | None = None,
    landscape_samples: int = 500,
    provenance: Record | None = None,
    folder: Any = None,
) -> Record:
    """Return the report's record: before, after, along the path, beside the baselines, and what it
    does not prove.

    Baselines are run here on the samples that the curve was trained on. With `landscape`, an attack
    that looks for the largest loss, robustness and curvature along the path are measured on so many
    samples (`isthmus.landscape`). Raises BadInput where the judge's errors are among the samples
    that were trained on, or what it holds does not fit."""
    judge = judge or Judge()
    judge.check(found.fitted)
    metrics = judge.metrics(found.held_out)
    asked = judge.evaluation if judge.evaluation is not None else found.held_out
    path = _along(found, {n: m for n, m in metrics.items() if n != BONAFIDE}, folder)
    rows = compare(baselines or {}, tampered, found.fitted, metrics, folder=folder)
    woken = compare(_reactivations(judge), found.model, found.fitted, metrics, folder=folder)
    before, after = (
        {
            **as_records(measure(net, metrics)),
            "per_class": {k: as_record(v) for k, v in per_class(net, asked).items()},
        }
        for net in (tampered, found.model)
    )
    record = {
        "schema": "isthmus-report/1",
        "title": "Repair of a neural network along a low-loss path",
        "verdict": verdict(found, before, after),
        "provenance": {**(provenance or {}), "recalibrated_on": path.recalibrated_on},
        "choice": _choice(found),
        "curve": _curve(found),
        "path": path.record(),
        "before": before,
        "after": after,
        "permanence": _permanence(found, tampered, woken, metrics),
        "baselines": [row for row in rows if "refused" not in row],
        "limits": [
            *limits(found, judge),
            *(
                f"{r['name']} was not run: {r['refused']}."
                for r in [*rows, *woken]
                if "refused" in r
            ),
        ],
    }
    note = "measured after the choice was made; no rule has seen it"
    if landscape is not None:
        questions = surroundings.landscape_metrics(asked[:landscape_samples], landscape)
        around = evaluate_path(
            found.curve,
            questions,
            found.path.t,
            recalibrate_on=found.fitted,
            ends="recalibrated",
            folder=folder,
        )
        record["landscape"] = surroundings.record(around, identity_of(landscape))
    if "attack success" in metrics:
        record["trigger"] = {
            "trigger": identity_of(judge.trigger),
            "target": str(judge.target),
            "note": note,
        }
    if judge.errors is not None:
        record["errors"] = {"n": len(judge.errors), "note": note}
    return record


def _along(found: Repair, metrics: Mapping[str, Metric], folder: Any) -> Path:
    """The path of the repair with the judge's metrics added at the same t."""
    if not metrics:
        return found.path
    added = evaluate_path(
        found.curve, metrics, found.path.t, recalibrate_on=found.fitted, folder=folder
    )
    values = {**found.path.values, **added.values}
    return Path(added.t, added.distance, values, added.length, found.path.recalibrated_on)


def _choice(found: Repair) -> Record:
    return {
        "t": float(found.t),
        "rule": found.t.rule,
        "reason": found.t.reason,
        "confident": found.t.confident,
        "coefficients": found.curve.coefficients(float(found.t)).tolist(),
        "samples": len(found.held_out),
    }


def _curve(found: Repair) -> Record:
    history = found.history
    return {
        **found.settings,
        "steps": history.steps if history else 0,
        "endpoint_gradients": found.spent,
        "lr": history.lr if history else 0.0,
        "batch_size": history.batch_size if history else 0,
        "seed": history.seed if history else 0,
        "losses": history.losses if history else [],
        "length": found.path.length,
    }


def _reactivations(judge: Judge) -> dict[str, Defense]:
    """Ways to wake the backdoor, for whoever holds the trigger."""
    if judge.trigger is None or judge.target is None:
        return {}
    return {
        f"re-activation with {k} images": Reactivate(judge.trigger, judge.target, k) for k in IMAGES
    }


def _permanence(
    found: Repair, tampered: nn.Module, woken: list[Row], metrics: Mapping[str, Metric]
) -> Record:
    """Whether the repair lasts: the loss barrier back to the tampered network, and retraining with
    triggered images.
    """
    record: Record = {"linear_barrier": linear_barrier(found.model, tampered, found.fitted)}
    if woken:
        record["reactivation"] = [
            {"images": images, **{name: row[name] for name in metrics}}
            for images, row in zip(IMAGES, woken, strict=True)
            if "refused" not in row
        ]
    return record


def verdict(found: Repair, before: Record, after: Record) -> str:
    """Return the outcome in one plain sentence; where the tampering still works, it says so first.

    That is where its success rate is above a tenth beyond doubt.
    """
    tampering = [name for name in STILL if name in after]
    asked = {
        **{name: name for name in tampering},
        "accuracy" if "accuracy" in after else BONAFIDE: "accuracy",
    }
    figures = "; ".join(
        f"{words} {percent(before[each]['value'])} before, {percent(after[each]['value'])} after"
        for each, words in asked.items()
    )
    remains = [STILL[name] for name in tampering if after[name]["low"] > STILL_WORKS]
    works = f", on which {' and '.join(remains)}" if remains else ""
    where = f"the network at t = {float(found.t):g}"
    if not found.t.confident and found.damaged:
        return f"Every point of the path costs too much accuracy; taken all the same was {where}{works}: {figures}."
    if not found.t.confident:
        return f"The samples cannot tell which point to trust; taken untested was {where}{works}: {figures}."
    unasked = (
        "" if tampering else " Whether a backdoor is gone was not measured: no trigger was given."
    )
    return f"Took {where}{works}: {figures}.{unasked}"


def limits(found: Repair, judge: Judge) -> list[str]:
    """Return what the evidence does not prove, as sentences for a reader."""
    lines = [
        "A low attack success rate on one trigger says nothing about other triggers or targets.",
    ]
    if judge.trigger is not None:
        lines.append("Re-activation was tried with one way of retraining; another may wake more.")
    else:
        lines.append(
            "A repaired network can sometimes learn its backdoor again from a few triggered images."
        )
        lines.insert(
            0,
            "No trigger was given: the report shows what accuracy was kept, not that a backdoor is gone.",
        )
    if judge.errors is not None:
        lines.append(
            f"Injected errors were asked about at {len(judge.errors)} images; others may be left elsewhere."
        )
    if judge.evaluation is None:
        lines.append(
            "No evaluation data were given: figures are on bonafide samples"
            + (
                " that the curve was trained on."
                if found.held_out is found.fitted
                else " held out from training."
            )
        )
    if judge.left_out:
        lines.append(
            f"{judge.left_out} evaluation samples were left out, for they are among the bonafide ones."
        )
    if not found.t.confident:
        lines.insert(
            0, "The choice of t is not supported by the samples; treat the network as a candidate."
        )
    return lines
