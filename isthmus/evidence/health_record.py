"""The record of an attack's health: what the report.json of `isthmus health` holds, as types."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from annotated_types import Ge
from pydantic import Field

from isthmus.evidence.record import (
    Count,
    Document,
    Finite,
    Flag,
    Number,
    Quartiles,
    RecordPart,
    Sentence,
    Text,
    Value,
)

HEALTH = "isthmus-health/1"
"""The version of the record. A change that breaks readers raises the number."""


class IndicatorPart(RecordPart):
    """An indicator of the attack's health, what it says, and what to do where it fires."""

    name: Sentence
    value: Number
    """Null where it was not measured, or not finite."""
    threshold: Number
    """Null for a quantity that is described and not judged."""
    below: Flag
    decisive: Flag
    fired: Flag
    meaning: Sentence
    advice: Sentence
    source: Sentence
    """Where the threshold comes from."""


class LookPart(RecordPart):
    """What the climbs of samples that stand have reached after a number of steps: quartiles."""

    step: Count
    quartiles: Quartiles


class RadiusPart(RecordPart):
    """Accuracy under PGD within one radius, on some of the samples."""

    eps: Annotated[Finite, Ge(0)]
    accuracy: Value


class AttackHealth(Document):
    """Whether the robust accuracy of a network under an attack can be trusted. Shares are fractions
    in [0, 1]; a number that was not finite is null.
    """

    kind: ClassVar = HEALTH
    contract: ClassVar = HEALTH
    version: Literal["isthmus-health/1"] = Field(alias="schema")
    attack: Text
    accuracy: Value
    """Without the attack."""
    robust: Value
    """Under the attack, with its health."""
    indicators: tuple[IndicatorPart, ...]
    gains: tuple[LookPart, ...]
    """Share of the most that any start gained, after 1, 2, 5, ... steps."""
    values: tuple[LookPart, ...]
    """The objective after each step."""
    radii: tuple[RadiusPart, ...]
    spreads: tuple[Finite, ...]
    """Spread of the objective over restarts, (max - min) / max, at every twentieth of the samples
    that stand."""
