"""The same statistics of clean networks, which a verdict compares with, and p-values from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from isthmus.defenses.inspection.found_triggers import Goal
from isthmus.runs.files import read_json, write_json
from isthmus.runs.wording import first_line
from isthmus.types import BadInput


class Scored(Protocol):
    """A trigger that was found, or what a record says of it."""

    @property
    def kind(self) -> str:
        """Patch or perturbation."""

    @property
    def target(self) -> Goal:
        """Where it leads."""

    @property
    def score(self) -> float:
        """The lower, the odder."""


S = TypeVar("S", bound=Scored)


@dataclass(frozen=True)
class References:
    """The statistics of clean networks, one value per network under each name, and what they were
    measured on.

    `settings` are those of the search with the image shape and the number of classes: a network
    inspected otherwise cannot be compared. `parameters` is how many each network has, None where
    that is not known or they differ.
    """

    networks: str
    settings: Mapping[str, Any]
    values: Mapping[str, Sequence[float]]
    parameters: int | None = None

    def __post_init__(self) -> None:
        lengths = {len(values) for values in self.values.values()}
        if len(lengths) != 1 or not all(
            np.isfinite(list(values)).all() for values in self.values.values()
        ):
            raise BadInput(
                f"references with {sorted(lengths)} values",
                expected="a finite value under every name for each clean network",
                fix="make them with `references`",
            )

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    def record(self) -> dict[str, Any]:
        """Return them as plain JSON; `read_references` reads it."""
        values = {name: list(numbers) for name, numbers in self.values.items()}
        record = {"networks": self.networks, "settings": dict(self.settings), "values": values}
        return record if self.parameters is None else {**record, "parameters": self.parameters}


def read_references(file: Path | str | None = None) -> tuple[References, ...]:
    """Return the references in a JSON file, by default those that come with the package
    (docs/inspection.md).

    Raises BadInput where the file is missing or holds no references.
    """
    path = (
        resources.files("isthmus.defenses.inspection").joinpath("references.json")
        if file is None
        else file
    )
    held = read_json(str(path))
    try:
        return tuple(
            References(
                entry["networks"], entry["settings"], entry["values"], entry.get("parameters")
            )
            for entry in held["references"]
        )
    except BadInput:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise BadInput(
            f"{path}, which holds no references",
            expected="what `References.record` gives",
            fix="pass the file that isthmus references wrote",
        ) from error


def write_references(file: Path | str, known: References) -> None:
    """Write references as `read_references` reads them. Raises BadInput as `write_json` does."""
    write_json(file, {"schema": "isthmus-references/1", "references": [known.record()]})


def collected(records: Sequence[Mapping[str, Any]], name: str) -> References:
    """Return the references that inspections of clean networks give, of records with `statistics`
    and `settings`.

    `name` says which networks they are. Raises BadInput where records lack these, or differ in
    settings or statistics, or are none.
    """
    if not records:
        raise BadInput(
            "no clean networks",
            expected="twenty or so",
            fix="train some on data you trust, and inspect them",
        )
    try:
        settings, names = records[0]["settings"], list(records[0]["statistics"])
        unlike = [
            i
            for i, entry in enumerate(records)
            if entry["settings"] != settings or [*entry["statistics"]] != names
        ]
        values = {key: [float(entry["statistics"][key]) for entry in records] for key in names}
    except (LookupError, TypeError) as error:
        raise BadInput(
            f"a record without {first_line(error)}",
            expected="what `isthmus inspect --out` writes",
            fix="inspect that network again",
        ) from error
    if unlike:
        raise BadInput(
            f"inspection {unlike[0] + 1} of {len(records)}, with other settings than the first",
            expected="the same images, classes and search",
            fix="leave it out, or inspect it as the others",
        )
    sizes = {record.get("parameters") for record in records}
    return References(name, settings, values, sizes.pop() if len(sizes) == 1 else None)


def p_value(values: Mapping[str, float], references: References) -> float:
    """Return the share of clean networks, this one counted among them, that are at least as odd in
    some statistic.

    The statistics are standardized over the references and this network together, and the largest
    is compared. For a clean network that is exchangeable with the references, the chance of a value
    of a or less is at most a, whatever the distribution (conformal p-value). Raises BadInput where
    names differ.
    """
    if values.keys() != references.values.keys():
        raise BadInput(
            f"statistics {sorted(values)}",
            expected=f"{sorted(references.values)}",
            fix="inspect with the same kinds",
        )
    oddness = _standardized(values, references).max(1)
    return float((oddness >= oddness[-1]).mean())


def oddest(
    triggers: Sequence[S], values: Mapping[str, float], references: References | None = None
) -> S:
    """Return of the triggers, or their records, the one behind the statistic that stands out most
    among clean networks.

    Without references, the smallest of a class.
    """
    if references is not None:
        name = list(values)[int(_standardized(values, references)[-1].argmax())]
    else:
        name = max(
            (name for name in values if not name.endswith(", any")), key=lambda name: values[name]
        )
    kind, _, away = name.partition(", ")
    return min(
        (
            trigger
            for trigger in triggers
            if trigger.kind == kind and (trigger.target == "any") == bool(away)
        ),
        key=lambda trigger: trigger.score,
    )


def _standardized(values: Mapping[str, float], references: References) -> np.ndarray[Any, Any]:
    """Return (references + 1, statistics), mean 0 and deviation 1 in each column, this network
    last.
    """
    rows = np.array([[*references.values[name], value] for name, value in values.items()]).T
    return np.asarray((rows - rows.mean(0)) / np.maximum(rows.std(0), 1e-12))
