"""What a check of an attack found: whether a robust number says something about the network, or
about the attack alone.

The checks themselves are in `attacks/inputs/health`; here is what a value carries of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any


@dataclass(frozen=True)
class Finding:
    """What one indicator says: its value, None where it was not measured, against its threshold.

    It fires above the threshold; with `below`, under it. Where a `decisive` one fires, the robust
    number proves nothing.
    """

    name: str
    value: float | None
    threshold: float
    decisive: bool
    below: bool = False

    @property
    def fired(self) -> bool:
        """Whether the value is on the wrong side of the threshold."""
        if self.value is None:
            return False
        return self.value < self.threshold if self.below else self.value > self.threshold

    def record(self) -> dict[str, Any]:
        """Return the finding as plain JSON."""
        value = self.value
        known = value is not None and isfinite(value)
        return {
            "name": self.name,
            "value": value if known else None,
            "threshold": self.threshold if isfinite(self.threshold) else None,
            "below": self.below,
            "decisive": self.decisive,
            "fired": self.fired,
        }


@dataclass(frozen=True)
class Health:
    """How far the robust accuracy under an attack can be trusted.

    `warnings` has a sentence for every indicator that fired, the decisive ones first, with what to
    do about it. `draws` is how many passes of the network made one answer, more than 1 where its
    answers are random; `undecided` is then the share of samples whose answer these leave open at
    95 %.
    """

    attack: str
    samples: int
    findings: tuple[Finding, ...]
    warnings: tuple[str, ...]
    draws: int = 1
    undecided: float = 0.0

    @property
    def trustworthy(self) -> bool:
        """Whether no decisive indicator fired."""
        return not any(finding.fired and finding.decisive for finding in self.findings)

    @property
    def fired(self) -> tuple[str, ...]:
        """The names of the indicators that fired."""
        return tuple(finding.name for finding in self.findings if finding.fired)

    def __getitem__(self, name: str) -> float | None:
        """Return the value of an indicator; None where it was not measured."""
        return {finding.name: finding.value for finding in self.findings}[name]

    @property
    def record(self) -> dict[str, Any]:
        """The health as plain JSON."""
        return {
            "trustworthy": self.trustworthy,
            "warnings": list(self.warnings),
            "attack": self.attack,
            "samples": self.samples,
            "draws": self.draws,
            "undecided": self.undecided,
            "indicators": [finding.record() for finding in self.findings],
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Health:
        """Return the health that `record` holds."""
        findings = tuple(
            Finding(
                entry["name"],
                entry["value"],
                inf if entry["threshold"] is None else entry["threshold"],
                entry["decisive"],
                entry["below"],
            )
            for entry in record["indicators"]
        )
        return cls(
            record["attack"],
            record["samples"],
            findings,
            tuple(record["warnings"]),
            record["draws"],
            record["undecided"],
        )
