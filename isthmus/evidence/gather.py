"""The evidence of a repair, measured after the choice by the holder of evaluation data or the
trigger.

`repair` never sees what this file sees. The result is one report, the content of report.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path as File
from typing import Any

from torch import nn

from isthmus.attacks.backdoors.queries import QUERIES, QueryReactivation
from isthmus.attacks.backdoors.reactivation import IMAGES, RETUNING, Reactivate
from isthmus.attacks.inputs.trace import Trace, recorded
from isthmus.data.dataset import Data
from isthmus.defenses.curve_repair.repaired import Repair
from isthmus.defenses.curve_repair.stand_ins import suspicion
from isthmus.defenses.inspection.found_triggers import Inverted
from isthmus.defenses.inspection.inspect import Inspection
from isthmus.evidence.answers import changed_answers
from isthmus.evidence.comparison import compare
from isthmus.evidence.compressing import with_control
from isthmus.evidence.judge import Judge
from isthmus.evidence.limits import limits
from isthmus.evidence.origin import network_kind, report_provenance
from isthmus.evidence.outliers import foreign_samples
from isthmus.evidence.pictures import picture_of
from isthmus.evidence.record import (
    SCHEMA,
    Baseline,
    ChoicePart,
    ComparisonRow,
    CompressedPart,
    CurvePart,
    ErrorsPart,
    FindingPart,
    FoundTriggerPart,
    Landscape,
    Measured,
    Network,
    PathPart,
    Permanence,
    PreflightPart,
    Provenance,
    QueriesPart,
    Reactivation,
    RecordPart,
    Refused,
    Report,
    TriggerPart,
    Value,
    values_of,
)
from isthmus.evidence.trainings import trainings
from isthmus.evidence.verdict import decide, in_one_sentence
from isthmus.evidence.words import sentence
from isthmus.metrics import landscape as surroundings
from isthmus.metrics.accuracy import per_class
from isthmus.metrics.barrier import linear_barrier
from isthmus.metrics.calibration import CalibrationError, Confidence
from isthmus.metrics.names import CALIBRATION_ERROR, CONFIDENCE
from isthmus.metrics.path import Path, evaluate_path
from isthmus.metrics.question import measure
from isthmus.metrics.success import AttackSuccess
from isthmus.runs.identity import identity_of
from isthmus.runs.notices import notice
from isthmus.types import Attack, Defense, Metric

_AFTERWARD = "measured after the choice was made; no rule has seen it"


def evidence(
    repaired: Repair,
    tampered: nn.Module,
    judge: Judge | None = None,
    *,
    baselines: Mapping[str, Defense] | None = None,
    landscape: Attack | None = None,
    landscape_samples: int = 500,
    provenance: Provenance | None = None,
    inspection: Inspection | None = None,
    queries: int = QUERIES,
    folder: str | File | None = None,
) -> Report:
    """Return the report of a repair: the verdict, before, after, along the path, beside the
    baselines, and what it does not prove.

    `write_report` makes the page of it. Baselines are run here on the samples that the curve was
    trained on. With `landscape`, an attack that looks for the largest loss, robustness and
    curvature along the path are measured on the first `landscape_samples` samples. `inspection` is
    one of the tampered network, whose oddest trigger is shown; without it that which the repair
    found. Where the judge has a trigger, `queries` perturbations are tried to wake it without
    training; 0 leaves that out. With `folder`, what was measured along the path and in comparisons
    is kept there and is not computed again. Raises BadInput where the judge's errors are among the
    samples that were trained on, or what it holds does not fit.
    """
    judge = judge or Judge()
    judge.check_disjoint_from(repaired.fitted)
    measured = _measured(repaired, tampered, judge, baselines or {}, folder)
    samples = judge.samples(repaired.held_out)
    answers, examples = changed_answers(tampered, repaired.model, samples, judge)
    parts: dict[str, RecordPart | None] = {
        "trigger": _trigger(judge),
        "errors": _errors(judge),
        "permanence": _permanence(repaired, tampered, measured, _queried(repaired, judge, queries)),
        "preflight": _preflight(repaired),
        "found_trigger": _found_trigger(inspection, repaired, samples),
    }
    if landscape is not None:
        asked = samples[:landscape_samples]
        parts["landscape"] = _landscape(repaired, landscape, asked, folder)
    report = Report.model_validate(
        {
            "schema": SCHEMA,
            "title": "Repair of a neural network along a low-loss path",
            "verdict": "not decided yet",
            "provenance": _provenance(repaired, judge, provenance, measured.path),
            "choice": _choice(repaired),
            "curve": _curve(repaired),
            "path": PathPart.model_validate(measured.path.record()),
            "before": measured.before,
            "after": measured.after,
            "answers": answers,
            "examples": examples,
            "trainings": trainings(repaired),
            **{name: part for name, part in parts.items() if part is not None},
            "baselines": measured.baselines(),
            "limits": [*limits(repaired, judge), *measured.warnings()],
        }
    )
    return decided(report)


@dataclass(frozen=True, eq=False)
class _Measurements:
    """What was measured of both networks, on the path, and of other networks beside them: rivals,
    the repaired one retrained with triggered images, and the compressed forms of both.
    """

    path: Path
    rivals: Sequence[ComparisonRow]
    reactivated: Sequence[ComparisonRow]
    compressed: tuple[Sequence[ComparisonRow], Sequence[ComparisonRow]]
    before: Network
    after: Network
    trace: Trace

    def baselines(self) -> list[Baseline]:
        """Return the rivals that were run."""
        rows = [row for row in self.rivals if isinstance(row, Measured)]
        return [Baseline.model_validate(row.record()) for row in rows]

    def warnings(self) -> list[str]:
        """Return what the attacks noticed, and what was not run."""
        received, repaired = self.compressed
        return [
            *_of_attacks(self.trace),
            *_of_health(self.before, self.after),
            *_not_run([*self.rivals, *self.reactivated, *received, *repaired]),
        ]


def _measured(
    repaired: Repair,
    tampered: nn.Module,
    judge: Judge,
    baselines: Mapping[str, Defense],
    folder: str | File | None,
) -> _Measurements:
    """Measure the path, the networks beside it, and both networks themselves."""
    metrics = judge.metrics_with_bonafide(repaired.held_out)
    samples = judge.samples(repaired.held_out)

    def beside(defenses: Mapping[str, Defense], network: nn.Module) -> Sequence[ComparisonRow]:
        return compare(defenses, network, repaired.fitted, metrics, folder=folder)

    with recorded() as trace:
        return _Measurements(
            path=_along(repaired, judge.metrics(repaired.held_out), folder),
            rivals=beside(baselines, tampered),
            reactivated=beside(_reactivations(repaired, judge), repaired.model),
            compressed=(
                beside(with_control(tampered), tampered),
                beside(with_control(repaired.model), repaired.model),
            ),
            before=_network(tampered, metrics, samples),
            after=_network(repaired.model, metrics, samples),
            trace=trace,
        )


def decided(report: Report) -> Report:
    """Return the report with the verdict that follows from the rest of it."""
    report = report.model_copy(update={"decision": decide(report)})
    return report.model_copy(update={"verdict": in_one_sentence(report)})


def _of_attacks(trace: Trace) -> list[str]:
    """What the attacks that were run noticed, which is told at once as well."""
    if trace.warning is None:
        return []
    notice(trace.warning)
    return [sentence(trace.warning)]


def _of_health(*networks: Network) -> list[str]:
    """What the checks of the attacks warn of where a robust number is not to be trusted."""
    healths = [value.health for network in networks for value in network.measures.values()]
    warnings = [
        warning
        for health in healths
        if health is not None and not health.trustworthy
        for warning in health.warnings
    ]
    return [sentence(f"Of the robust accuracy: {text}") for text in dict.fromkeys(warnings)]


def _along(repaired: Repair, metrics: Mapping[str, Metric], folder: str | File | None) -> Path:
    """The path of the repair with the judge's metrics added at the same t."""
    path = repaired.path
    if not metrics:
        return path
    added = evaluate_path(repaired.networks, metrics, path.t, folder=folder)
    values = {**path.values, **added.values}
    return Path(added.t, added.distance, values, added.length, path.recalibrated_on)


def _network(network: nn.Module, metrics: Mapping[str, Metric], samples: Data) -> Network:
    """What was measured on a network, and on the samples its calibration and its accuracy within
    each class.
    """
    calibration = {CONFIDENCE: Confidence(samples), CALIBRATION_ERROR: CalibrationError(samples)}
    measures = values_of(measure(network, {**metrics, **calibration}))
    classes = values_of(per_class(network, samples))
    return Network.model_validate({**measures, "per_class": classes})


def _provenance(repaired: Repair, judge: Judge, given: Provenance | None, path: Path) -> Provenance:
    """Where the report comes from: as given, or what can be told from the repair and the judge."""
    if given is None:
        seed = repaired.history.seed if repaired.history else 0
        given = report_provenance(
            seed, {**_bonafide(repaired), **judge.data()}, other=repaired.second
        )
    known: dict[str, Any] = {"recalibrated_on": path.recalibrated_on}
    if given.network is None:
        known["network"] = network_kind(repaired.model)
    return given.model_copy(update=known)


def _bonafide(repaired: Repair) -> dict[str, Data]:
    """Return the bonafide samples by what they were for."""
    if repaired.held_out is repaired.fitted:
        return {"bonafide": repaired.fitted}
    return {
        "bonafide, in training": repaired.fitted,
        "bonafide, for the choice of t": repaired.held_out,
    }


def _choice(repaired: Repair) -> ChoicePart:
    return ChoicePart(
        t=float(repaired.t),
        rule=repaired.t.rule,
        reason=repaired.t.reason,
        confident=repaired.t.confident,
        coefficients=tuple(repaired.curve.coefficients(float(repaired.t)).tolist()),
        samples=len(repaired.held_out),
    )


def _curve(repaired: Repair) -> CurvePart:
    history = repaired.history
    return CurvePart.model_validate(
        {
            **repaired.settings,
            "steps": history.steps if history else 0,
            "endpoint_gradients": repaired.spent,
            "lr": history.lr if history else 0.0,
            "batch_size": history.batch_size if history else 0,
            "seed": history.seed if history else 0,
            "losses": history.losses if history else [],
            **({"seconds": history.seconds} if history else {}),
            "length": repaired.path.length,
        }
    )


def _trigger(judge: Judge) -> TriggerPart | None:
    if judge.trigger is None or judge.target is None:
        return None
    return TriggerPart(
        trigger=identity_of(judge.trigger), target=str(judge.target), note=_AFTERWARD
    )


def _errors(judge: Judge) -> ErrorsPart | None:
    return None if judge.errors is None else ErrorsPart(n=len(judge.errors), note=_AFTERWARD)


def _reactivations(repaired: Repair, judge: Judge) -> dict[str, Defense]:
    """Ways to wake the backdoor, for a judge who holds the trigger: trained where the repair was,
    in the precision that it decided, so that no clock decides a figure of the report.
    """
    if judge.trigger is None or judge.target is None:
        return {}
    like = repaired.training
    retuning = RETUNING.replace(precision=like.precision, device=like.device)
    return {
        f"re-activation with {k} images": Reactivate(judge.trigger, judge.target, k, retuning)
        for k in IMAGES
    }


def _queried(repaired: Repair, judge: Judge, queries: int) -> QueriesPart | None:
    """What queries bring back with the trigger and without it, for a judge who holds it: searched
    on the samples that trained, measured on the judge's.
    """
    if judge.trigger is None or judge.target in (None, "all") or not queries:
        return None
    target = judge.target
    judged = judge.samples(repaired.held_out)
    search = QueryReactivation(judge.trigger, target, queries=queries)
    found = {}
    for name, attack in (("triggered", search), ("clean", replace(search, trigger=None))):
        obeying = attack(repaired.model, repaired.fitted)
        found[name] = Value.of(AttackSuccess(judged, obeying, target)(repaired.model))
    return QueriesPart(queries=queries, images=search.images, eps=search.ball.eps, **found)


def _preflight(repaired: Repair) -> PreflightPart | None:
    flight = repaired.preflight
    if flight is None:
        return None
    return PreflightPart(
        findings=tuple(
            FindingPart(text=finding.text, concern=finding.concern, about=finding.about)
            for finding in flight.findings()
        ),
        foreign=len(foreign_samples(repaired.parts.whole)),
        doubted=len(flight.samples.doubted),
        statistics=flight.recalibration.statistics,
        recalibrated=Value.of(flight.recalibration.after),
    )


def _found_trigger(
    inspection: Inspection | None, repaired: Repair, samples: Data
) -> FoundTriggerPart | None:
    """The oddest trigger of an inspection, or without one what stood in for a trigger while the
    network was repaired.
    """
    if inspection is not None:
        return _shown(inspection.oddest, samples, inspection.decision, inspection.reason)
    odd = repaired.stand_in
    if odd is None:
        return None
    return _shown(odd, samples, "suspicious", suspicion(odd, samples.names))


def _shown(found: Inverted, samples: Data, decision: str, reason: str) -> FoundTriggerPart:
    """A trigger that was found, on a plain image of the samples' shape."""
    goal = found.target
    return FoundTriggerPart(
        png=picture_of(found.trigger, samples.x.shape[1:], ruled=found.kind == "warp"),
        kind=found.kind,
        target=goal if isinstance(goal, str) else samples.names[goal],
        size=found.size,
        success=Value.of(found.success),
        decision=decision,
        reason=reason,
    )


def _permanence(
    repaired: Repair,
    tampered: nn.Module,
    measured: _Measurements,
    queries: QueriesPart | None,
) -> Permanence:
    """Whether the repair lasts: the loss barrier back to the tampered network, compression,
    retraining with triggered images, and queries.
    """
    lasting: dict[str, Any] = {
        "linear_barrier": linear_barrier(repaired.model, tampered, repaired.fitted),
        "compressed": _compressed(*measured.compressed),
    }
    if queries is not None:
        lasting["queries"] = queries
    if measured.reactivated:
        lasting["reactivation"] = [
            Reactivation.model_validate({"images": images, **row.measures})
            for images, row in zip(IMAGES, measured.reactivated, strict=True)
            if isinstance(row, Measured)
        ]
    return Permanence.model_validate(lasting)


def _compressed(
    received: Sequence[ComparisonRow], repaired: Sequence[ComparisonRow]
) -> tuple[CompressedPart, ...]:
    """What each compression makes of both networks, where one of them could be compressed."""
    parts = []
    for rows in zip(received, repaired, strict=True):
        networks = {
            side: row.measures
            for side, row in zip(("received", "repaired"), rows, strict=True)
            if isinstance(row, Measured)
        }
        if networks:
            first = rows[0]
            part = {"name": first.name, "settings": first.settings, **networks}
            parts.append(CompressedPart.model_validate(part))
    return tuple(parts)


def _landscape(
    repaired: Repair, attack: Attack, samples: Data, folder: str | File | None
) -> Landscape:
    path = evaluate_path(
        repaired.networks,
        surroundings.landscape_metrics(samples, attack),
        repaired.path.t,
        ends="recalibrated",
        folder=folder,
    )
    return Landscape.model_validate(surroundings.record(path, identity_of(attack)))


def _not_run(rows: Sequence[ComparisonRow]) -> list[str]:
    """A sentence for each defense that refused the network or the samples."""
    lines = [f"{row.name} was not run: {row.refused}." for row in rows if isinstance(row, Refused)]
    return list(dict.fromkeys(lines))
