"""`isthmus inspect`: does a checkpoint obey an oddly small trigger?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path as File
from typing import TYPE_CHECKING, Any, Literal

from cyclopts import Parameter

from isthmus import defenses, evidence, metrics, runs
from isthmus.cli.estimate import Part, pace_of, say_estimate
from isthmus.cli.gate import Check, Pipeline
from isthmus.cli.inputs import load_network, load_samples
from isthmus.cli.minutes import TimeLimit
from isthmus.cli.options import Clean, InputFile, ModelSpec, NewFile
from isthmus.cli.output import say

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.table import Table
    from torch import nn

    from isthmus.data import Data
    from isthmus.defenses import Inverted, Outlook, References


LEAST_STEPS = 20
"""With fewer steps no search finds a trigger."""


@Parameter(name="*")
@dataclass(frozen=True)
class SearchOptions:
    """How triggers are searched for.

    :param steps: Steps of each search; by default as in the references, or 300.
    :param batch_size: Samples per step; by default as in the references, or 32.
    :param seed: Seed of the searches.
    """

    steps: int | None = None
    batch_size: int | None = None
    seed: int = 0
    limit: TimeLimit = TimeLimit()

    def search(self) -> dict[str, Any]:
        """Return the options that are given, as fields of `Search`."""
        names = ("steps", "batch_size", "seed")
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}


def inspect_command(
    checkpoint: InputFile,
    *,
    model: ModelSpec,
    clean: Clean,
    references: InputFile | None = None,
    search: SearchOptions = SearchOptions(),
    out: NewFile | None = None,
    fail_on: Literal["suspicious", "doubt"] | None = None,
    pipeline: Pipeline = Pipeline(),
) -> None:
    """Say whether a checkpoint obeys an oddly small trigger.

    Also says which class the trigger leads to, and at what false-alarm rate: the rate among clean
    networks that were searched alike (docs/inspection.md). Without such references nothing is
    claimed, and the first line says so before the search. With --fail-on the exit status is 1 where
    the decision is the one named.

    :param checkpoint: The network to inspect.
    :param references: What clean networks gave (isthmus references); by default the references that
        come with isthmus.
    :param out: A new file for the record (.json); records of clean networks make references.
    :param fail_on: suspicious, or doubt for all but "not suspicious".
    """
    search.limit.check("--steps", given=search.steps is not None)
    with pipeline.words():
        record = _inspected(checkpoint, model, clean, references, search, out=out)
    gate = None
    if fail_on is not None:
        refused = {"suspicious"} if fail_on == "suspicious" else {"suspicious", "cannot tell"}
        passed = record["decision"] not in refused
        gate = Check(
            f"no decision of {fail_on}", passed, f"{record['decision']}: {record['reason']}"
        )
    pipeline.deliver("inspect", record, gate)


def _inspected(
    checkpoint: File,
    model: ModelSpec,
    clean: str,
    references: File | None,
    options: SearchOptions,
    *,
    out: File | None,
) -> dict[str, Any]:
    """Inspect, say what came of it, and return the record."""
    samples = load_samples(clean)
    network = load_network(model, checkpoint)
    metrics.check_above_chance(network, samples)
    known = defenses.read_references(references)[0] if references else None
    search = _announced(network, samples, known, options)
    inspection = defenses.inspect(network, samples, clean=known, **search)
    fields = ("decision", "reason", "p", "suspect")
    record: dict[str, Any] = {name: getattr(inspection, name) for name in fields}
    record["statistics"] = dict(inspection.statistics)
    record["settings"] = dict(inspection.settings)
    record["parameters"] = defenses.parameters_of(network)
    record["triggers"] = [trigger.record() for trigger in inspection.found]
    origin = evidence.provenance(options.seed, {"clean": samples})
    record["provenance"] = {**origin, "checkpoint": runs.file_sha256(checkpoint)}
    if out:
        runs.write_json(out, record)
    say(_table(inspection.found, samples.classes))  # type: ignore[arg-type]
    say(f"{inspection.decision}: {inspection.reason}")
    return record


def _announced(
    network: nn.Module, samples: Data, known: References | None, options: SearchOptions
) -> dict[str, Any]:
    """Return how triggers are searched for, with as many steps as the time allows; say what the
    inspection will be able to say, and how long it takes.
    """
    search, limit = options.search(), options.limit
    measured = pace_of(network, samples)
    outlook = defenses.outlook(network, samples, clean=known, **search)
    note = ""
    if limit.minutes is not None:
        single = defenses.outlook(network, samples, clean=known, **search, steps=1)
        most = outlook.gradients // single.gradients
        one = Part("search", 0, single.gradients)
        steps = limit.amount("steps", measured, [], one, least=LEAST_STEPS, most=most)
        note = limit.words("steps", steps, most)
        if steps < most:  # otherwise the search stays that of the references
            search["steps"] = steps
            outlook = defenses.outlook(network, samples, clean=known, **search)
    _say_outlook(outlook)
    parts = [Part("search", 0, outlook.gradients)]
    say_estimate(network, samples, parts, measured=measured, note=note)
    return search


def _say_outlook(outlook: Outlook) -> None:
    """Say what the inspection will be able to say."""
    if outlook.judges:
        say(f"inspect will judge this network: it {outlook.reason}")
    else:
        say(
            f"inspect can only describe this network, not judge it: {outlook.reason}; isthmus "
            "references makes references from twenty clean networks"
        )
    for caveat in outlook.caveats:
        say(f"- {caveat}")


def _table(triggers: Iterable[Inverted], classes: Sequence[str]) -> Table:
    rows = []
    for trigger in triggers:
        goal = trigger.target
        success = evidence.words.format_value(trigger.success).main
        name = goal if isinstance(goal, str) else classes[goal]
        rows.append((trigger.kind, name, f"{trigger.size:.3g}", success))
    caption = "the smallest trigger found of each kind and class"
    heads = ("Trigger", "Leads to", "Size", "Success")
    return evidence.tables.terminal_table(heads, rows, caption=caption, texts=2)
