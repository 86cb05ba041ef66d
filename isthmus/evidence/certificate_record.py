"""The record of a certificate: what the report.json of `isthmus certify` holds, as types."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, MinLen
from pydantic import Field

from isthmus.evidence.record import (
    Count,
    Document,
    Finite,
    Flag,
    Number,
    RecordPart,
    Seconds,
    Text,
    Value,
)

CERTIFICATE = "isthmus-certificate/1"
"""The version of the record. A change that breaks readers raises the number."""


class CertificateRow(RecordPart):
    """What holds at one eps."""

    eps: Annotated[Finite, Ge(0)]
    certified: Value
    """Share of samples whose answer is proved right."""
    attacked: Value | None
    """Share of samples that the attack leaves right; null without an attack."""
    gap: Number
    """Attacked less certified: the share of samples of which neither is known."""
    seconds_per_sample: Seconds
    """The certifier's time for one sample."""


class EquilibriumPart(RecordPart):
    """An equilibrium layer: its gamma, and how its last fixed point was reached."""

    gamma: Finite
    residual: Number
    iterations: Count
    converged: Flag


class Certificates(Document):
    """What a certifier proves of one network at several eps, and what an attack leaves.

    Shares are fractions in [0, 1]; a number that was not finite is null.
    """

    kind: ClassVar = CERTIFICATE
    contract: ClassVar = CERTIFICATE
    version: Literal["isthmus-certificate/1"] = Field(alias="schema")
    certifier: Text
    attack: Text | None
    """The attack at the largest eps; null without one."""
    accuracy: Value
    """Without an attack."""
    rows: Annotated[tuple[CertificateRow, ...], MinLen(1)]
    equilibrium_layers: dict[Text, EquilibriumPart]
