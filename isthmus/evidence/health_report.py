"""The health of an attack on one network, measured into a record, and as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from isthmus.attacks.inputs.health.convergence import gain_curve, spreads
from isthmus.attacks.inputs.health.examine import INDICATORS, examined
from isthmus.attacks.inputs.health.indicator import Run, judged
from isthmus.attacks.inputs.health.probes.sample import some
from isthmus.attacks.inputs.health.probes.stronger import by_radius
from isthmus.attacks.inputs.memory import Track
from isthmus.data.dataset import Data
from isthmus.evidence.health_record import (
    HEALTH,
    AttackHealth,
    IndicatorPart,
    LookPart,
    RadiusPart,
)
from isthmus.evidence.record import Origin, Value
from isthmus.evidence.words import attack_in_words, health_note
from isthmus.metrics.accuracy import Accuracy
from isthmus.metrics.health import Health
from isthmus.metrics.passes import Passes
from isthmus.metrics.values import Rate, RobustRate
from isthmus.runs.identity import identity_of
from isthmus.runs.wording import counted, percent
from isthmus.types import Attack

LIMITS = (
    "Robust accuracy is an upper bound: an attack that nobody has tried yet may fool more.",
    "Indicators have false alarms and misses, counted in docs/results/attack_health.md; that none "
    "fires proves nothing.",
)
FACTORS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
"""The radii of the page, as shares of the attack's own."""


def attack_health(
    model: nn.Module, data: Data, attack: Attack, *, network: str, provenance: Origin
) -> AttackHealth:
    """Return the full health of an attack on a network, with what its page draws.

    `network` names the network. Raises BadInput as the attack does.
    """
    passes = Passes(model)
    clean = Accuracy(data)(model)
    passes.random(data)
    moved, watch = passes.watched(data, attack)
    run = examined(passes, attack, data, moved, watch)
    health = judged(run, INDICATORS)
    robust = RobustRate(int(run.standing.sum()), len(data), health)
    record = {
        "schema": HEALTH,
        "title": f"Health of an attack on {network}",
        "verdict": _verdict(robust, health),
        "provenance": provenance,
        "attack": identity_of(attack),
        "accuracy": Value.of(clean),
        "robust": Value.of(robust),
        "indicators": _indicators(health),
        "gains": _looks(gain_curve(run.tracks)),
        "values": _looks(_values(run.tracks)),
        "radii": _radii(run),
        "spreads": _spreads(run.tracks),
        "limits": LIMITS,
    }
    return AttackHealth.read(record)


def _verdict(robust: Rate, health: Health) -> str:
    samples = counted(robust.n, "sample", "samples")
    share = f"Robust accuracy of {percent(robust)} ({robust.hits:,} of {samples})"
    if health.trustworthy:
        return f"{share}: nothing in the attack speaks against it."
    count = sum(finding.fired and finding.decisive for finding in health.findings)
    signs = "one sign" if count == 1 else f"{count} signs"
    return f"{share}: not to be trusted, by {signs} that the attack explains it."


def _indicators(health: Health) -> tuple[IndicatorPart, ...]:
    texts = {row.name: row for row in INDICATORS}
    return tuple(
        IndicatorPart(
            **finding.record(),
            meaning=texts[finding.name].meaning,
            advice=texts[finding.name].advice,
            source=texts[finding.name].source,
        )
        for finding in health.findings
    )


def _looks(values: Mapping[int, Tensor]) -> tuple[LookPart, ...]:
    """Return the quartiles of the values after each step."""
    cuts = torch.tensor([0.25, 0.5, 0.75])
    return tuple(
        LookPart(step=step, quartiles=tuple(part.float().quantile(cuts).tolist()))
        for step, part in values.items()
        if len(part)
    )


def _values(tracks: Sequence[Track], most: int = 100) -> dict[int, Tensor]:
    """Return the objective at each look, at most `most` of them, of all starts together."""
    longest = max((track.values.shape[1] for track in tracks), default=0)
    stride = max(1, longest // most)
    rows: dict[int, Tensor] = {}
    for step in range(0, longest, stride):
        parts = [
            track.values[:, step, track.standing].flatten()
            for track in tracks
            if track.values.shape[1] > step
        ]
        values = torch.cat(parts)
        rows[step] = values[values.isfinite()]
    return rows


def _radii(run: Run) -> tuple[RadiusPart, ...]:
    samples = some(run, torch.ones(len(run.clean), dtype=torch.bool))
    rows = by_radius(run, FACTORS, samples, steps=20)
    return tuple(RadiusPart(eps=row.eps, accuracy=Value.of(row.accuracy)) for row in rows)


def _spreads(tracks: Sequence[Track]) -> tuple[float, ...]:
    parts = [spreads(track)[track.standing] for track in tracks]
    values = torch.cat([torch.zeros(0), *parts])
    values = values[values.isfinite()]
    if not len(values):
        return ()
    cuts = torch.linspace(0, 1, 21)
    return tuple(float(cut) for cut in values.float().quantile(cuts))


def health_lines(rows: Iterable[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Return what a terminal prints of the attacks behind the values of networks: a line for each
    note, and one for each warning where a number is not to be trusted.
    """
    notes: dict[str, list[str]] = {}
    warnings: dict[str, None] = {}
    for head, values in rows:
        for name, value in values.items():
            health = _health_of(value)
            if health is None:
                continue
            attack = attack_in_words(health.attack)
            notes.setdefault(f"{name}, {attack}: {health_note(health)}", []).append(head)
            if not health.trustworthy:
                warnings.update(dict.fromkeys(health.warnings))
    lines = [
        note if len(notes) == 1 else f"{note} ({', '.join(heads)})" for note, heads in notes.items()
    ]
    return [*lines, *(f"- {warning}" for warning in warnings)]


def _health_of(value: Any) -> Any:
    """Return the health that a value carries, as a part of a record; None where it has none."""
    if isinstance(value, float):
        value = Value.of(value)
    return value.health
