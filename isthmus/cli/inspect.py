"""`isthmus inspect`: does a checkpoint obey an oddly small trigger?"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from pathlib import Path as File
from typing import TYPE_CHECKING, Any, Literal

from cyclopts import Parameter

from isthmus import defenses, evidence, metrics, runs
from isthmus.cli.estimate import Part, pace_of, say_estimate
from isthmus.cli.gate import Check, Pipeline
from isthmus.cli.inputs import load_network, load_samples
from isthmus.cli.minutes import TimeLimit
from isthmus.cli.options import Clean, InputFile, ModelSpec, NewFile, Whole
from isthmus.cli.output import say
from isthmus.types import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rich.table import Table
    from torch import nn

    from isthmus.data import Data
    from isthmus.defenses import Inverted, Outlook, References
    from isthmus.defenses.inspection.inspect import Inspection
    from isthmus.metrics import Rate
    from isthmus.types import Defense


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

    steps: Whole | None = None
    batch_size: Whole | None = None
    seed: Whole = 0
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
    compressed: bool = False,
    search: SearchOptions = SearchOptions(),
    out: NewFile | None = None,
    fail_on: Literal["suspicious", "doubt"] | None = None,
    pipeline: Pipeline = Pipeline(),
) -> None:
    """Say whether a checkpoint obeys an oddly small trigger.

    Also says which class the trigger leads to, and at what false-alarm rate: the rate among clean
    networks that were searched alike (docs/inspection.md). Without such references nothing is
    claimed, and the first line says so before the search. With --fail-on the exit status is 1 where
    the decision is the one named, of the network or of a compressed one.

    :param checkpoint: The network to inspect.
    :param references: What clean networks gave (isthmus references); by default the references that
        come with isthmus.
    :param compressed: Search the network pruned by 90 % and rounded to 8 and 4 bits as well: a
        backdoor may sleep until then. Each takes as long as the network itself, and is tested by
        itself, so that one of the four is called suspicious by chance more often.
    :param out: A new file for the record (.json); records of clean networks make references.
    :param fail_on: suspicious, or doubt for all but "not suspicious".
    """
    search.limit.check("--steps", given=search.steps is not None)
    with pipeline.words():
        inspected = _inspected(checkpoint, model, clean, references, search, compressed=compressed)
        record = inspected.record()
        if out:
            runs.write_json(out, record)
        inspected.show()
    gate = None
    if fail_on is not None:
        refused = {"suspicious"} if fail_on == "suspicious" else {"suspicious", "cannot tell"}
        worst = inspected.first_of(refused)
        reason = f"{worst.decision}: {worst.reason}"
        gate = Check(f"no decision of {fail_on}", worst.decision not in refused, reason)
    pipeline.deliver("inspect", record, gate)


@dataclass(frozen=True, eq=False)
class _Smaller:
    """What was found in a compressed network, and its accuracy on the clean samples."""

    found: Inspection
    accuracy: Rate

    def record(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return {**self.found.record(), "accuracy": metrics.as_record(self.accuracy)}

    def words(self, before: Rate) -> str:
        """Return what was found, beside the accuracy of the network `before` and this one's."""
        was, now = (evidence.Value.of(rate) for rate in (before, self.accuracy))
        old, new = (evidence.words.format_value(value).main for value in (was, now))
        line = f"{self.found.decision}: {self.found.reason}; accuracy {new} ({old} before)"
        drop = evidence.cost.drop_interval(was, now, None)
        if drop is None or drop[0] <= evidence.cost.COSTLY:
            return line
        costs = evidence.cost.beyond(evidence.cost.COSTLY)
        return f"{line}: {costs}, and a network as inaccurate may look suspicious without a trigger"


@dataclass(frozen=True, eq=False)
class _Inspected:
    """What was found in a network, and in what each compression makes of it, or why that cannot be
    inspected; `accuracy` is the network's on the clean samples, `classes` are the names of the
    classes, `origin` is where the result comes from.
    """

    whole: Inspection
    accuracy: Rate
    compressed: Mapping[str, _Smaller | BadInput]
    parameters: int
    classes: Sequence[str]
    origin: Mapping[str, Any]

    def first_of(self, refused: set[str]) -> Inspection:
        """Return the first inspection with a decision that a gate refuses; that of the network
        where there is none.
        """
        return next((each for each in self._found() if each.decision in refused), self.whole)

    def _found(self) -> list[Inspection]:
        """Return the inspections of the network and of its compressed forms."""
        smaller = [each for each in self.compressed.values() if not isinstance(each, BadInput)]
        return [self.whole, *(each.found for each in smaller)]

    def record(self) -> dict[str, Any]:
        """Return all of it as plain JSON."""
        record = {**self.whole.record(), "parameters": self.parameters}
        if self.compressed:
            record["compressed"] = {
                name: {"refused": str(each)} if isinstance(each, BadInput) else each.record()
                for name, each in self.compressed.items()
            }
        return {**record, "provenance": self.origin}

    def show(self) -> None:
        """Print the triggers and the decisions."""
        say(_table(self.whole.found, self.classes))
        say(f"{self.whole.decision}: {self.whole.reason}")
        for name, each in self.compressed.items():
            found = str(each) if isinstance(each, BadInput) else each.words(self.accuracy)
            say(f"after {name}: {found}")
        judged = sum(each.p is not None for each in self._found())
        if judged > 1:
            say(
                f"each of the {judged} networks is tested by itself, at a false-alarm rate of "
                f"{runs.percent(defenses.LEVEL)}: of {judged} forms of a clean network one or more "
                f"may be called suspicious in up to {runs.percent(judged * defenses.LEVEL)} of "
                "cases"
            )


def _inspected(
    checkpoint: File,
    model: ModelSpec,
    clean: str,
    references: File | None,
    options: SearchOptions,
    *,
    compressed: bool,
) -> _Inspected:
    """Inspect the network, and where it is asked for its compressed forms."""
    samples = load_samples(clean)
    network = load_network(model, checkpoint)
    accuracy = metrics.check_above_chance(network, samples)
    known = defenses.read_references(references)[0] if references else None
    ways = evidence.compressions() if compressed else {}
    search = _announced(network, samples, known, options, 1 + len(ways))
    whole = defenses.inspect(network, samples, clean=known, **search)
    smaller = {
        name: _after(compress, network, samples, known, search) for name, compress in ways.items()
    }
    origin = evidence.provenance(options.seed, {"clean": samples}).record()
    origin = {**origin, "checkpoint": runs.file_sha256(checkpoint)}
    size = defenses.parameters_of(network)
    return _Inspected(whole, accuracy, smaller, size, samples.names, origin)


def _after(
    compress: Defense,
    network: nn.Module,
    samples: Data,
    known: References | None,
    search: dict[str, Any],
) -> _Smaller | BadInput:
    """Return what is found in the compressed network, or why it cannot be inspected."""
    try:
        small = compress(network, samples)
        accuracy = metrics.check_above_chance(small, samples)
        return _Smaller(defenses.inspect(small, samples, clean=known, **search), accuracy)
    except BadInput as refusal:
        return refusal


def _announced(
    network: nn.Module,
    samples: Data,
    known: References | None,
    options: SearchOptions,
    searches: int,
) -> dict[str, Any]:
    """Return how triggers are searched for, with as many steps as the time allows for this number
    of searches; say what the inspection will be able to say, and how long it takes.
    """
    search, limit = options.search(), options.limit
    measured = pace_of(network, samples)
    outlook = defenses.outlook(network, samples, clean=known, **search)
    note = ""
    if limit.minutes is not None:
        single = defenses.outlook(network, samples, clean=known, **search, steps=1)
        most = outlook.gradients // single.gradients
        one = Part("search", 0, searches * single.gradients)
        steps = limit.amount("steps", measured, [], one, least=LEAST_STEPS, most=most)
        note = limit.words("steps", steps, most)
        if steps < most:  # otherwise the search stays that of the references
            whole = measured.seconds(one.times(most))
            note += f"; a search as long as that of references takes --minutes {ceil(whole / 60)}"
            search["steps"] = steps
            outlook = defenses.outlook(network, samples, clean=known, **search)
    _say_outlook(outlook)
    parts = [Part("search", 0, searches * outlook.gradients)]
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
