"""The record of a compression: what the report.json of prune and quantize holds, as types."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from annotated_types import MinLen
from pydantic import Field

from isthmus.evidence.record import (
    Count,
    Document,
    Finite,
    Flag,
    Fraction,
    Positive,
    RecordPart,
    Seconds,
    Text,
    Value,
)

COMPRESSION = "isthmus-compression/1"
"""The version of the record. A change that breaks readers raises the number."""


class Side(RecordPart):
    """A network before or after: its metrics by name, its file, and what a pass of one image costs.

    `milliseconds` is the median time of that pass on this machine, in PyTorch, which skips no
    zeros; both networks take turns.
    """

    metrics: Annotated[dict[Text, Value], MinLen(1)]
    """Clean accuracy comes first."""
    bytes: Positive
    """Before: of an ordinary file of the network, whatever it came in; after: of the packed one."""
    parameters: Count | None = None
    """All that the network holds; absent from older records, as is how many are not 0."""
    nonzero_parameters: Count | None = Field(None, alias="nonzero parameters")
    multiply_adds: Count = Field(alias="multiply-adds")
    nonzero: Count = Field(alias="multiply-adds with a nonzero weight")
    milliseconds: Seconds
    quartiles: tuple[Finite, Finite] | None = Field(None, alias="milliseconds quartiles")
    """Between them lies the middle half of the times; absent from older records."""

    @property
    def accuracy(self) -> Value:
        """Clean accuracy, the first metric."""
        return next(iter(self.metrics.values()))


class LayerPart(RecordPart):
    """What stays of a layer: weights or channels of a pruned one, nonzero weights on a grid."""

    units: Positive
    kept: Count
    scale: Finite | None = None
    """The step between neighboring levels of a grid; absent for a pruned layer."""

    @property
    def density(self) -> float:
        """Share of the units that stay."""
        return self.kept / self.units


class ReducedPart(RecordPart):
    """What pruning and quantization have in common."""

    method: Text
    units: Positive
    kept: Count
    layers: dict[Text, LayerPart]
    loss: Text
    training: Text | None = Field(
        default_factory=lambda: None
    )  # null is written, and may be absent
    """The options of the training; null where nothing was trained, absent from older records."""
    gradients: Count
    """Steps of the training, each of one gradient by the weights; those by the inputs, which an
    attack in the loss takes, are not counted.
    """
    seconds: Seconds

    @property
    def trained(self) -> bool:
        """Whether anything was trained: if not, the loss was minimized by nobody."""
        return self.gradients > 0


class PrunedPart(ReducedPart):
    """How weights or channels were dropped."""

    kind: Literal["prune"]
    structure: Literal["weights", "channels"]
    density: Fraction
    """The share that was to stay."""
    smaller: Flag | None = None
    """Of channels: whether the network was built without them."""
    smaller_reason: Text | None = None
    """Why it could not be built without them; absent where it was, and from older records."""


class QuantizedPart(ReducedPart):
    """How weights were rounded to few levels."""

    kind: Literal["quantize"]
    bits: Literal[1, "ternary", 2, 4, 8]
    choice: Literal["inner", "all"] | tuple[Text, ...] | None = None
    """Which layers were to be rounded; absent from older records."""


class Compression(Document):
    """What compression did to a network.

    Shares are fractions in [0, 1]; a number that was not finite is null.
    """

    kind: ClassVar = COMPRESSION
    contract: ClassVar = COMPRESSION
    version: Literal["isthmus-compression/1"] = Field(alias="schema")
    network: Text
    compressed: Annotated[PrunedPart | QuantizedPart, Field(discriminator="kind")]
    before: Side
    after: Side
    """Measured on the network that was read back from its file."""
    warnings: tuple[Text, ...] = ()
    """Why the smaller network is not to be used, sentences with which the verdict opens; absent
    from older records."""
    same: Value = Field(alias="same answers")
    """Share of samples with the same answer before and after."""
    passed: Positive | None = Field(None, alias="bytes of the file passed")
    """Of the file that the network came in, packed or not; absent from older records."""

    @property
    def measures(self) -> list[tuple[str, Value | None, Value | None]]:
        """What was measured before and after, by name; None where one of them lacks it."""
        before, after = self.before.metrics, self.after.metrics
        return [(name, before.get(name), after.get(name)) for name in {**before, **after}]

    @property
    def counts(self) -> list[tuple[str, int, int]]:
        """What is counted of the network before and after, and what a person reads for it; without
        what records of older versions lack.
        """
        names = {
            "bytes": "Bytes as safetensors",
            "parameters": "Parameters",
            "nonzero_parameters": "Of these not 0",
            "multiply_adds": "Multiply-adds",
            "nonzero": "Of these with a nonzero weight",
        }
        rows = [
            (words, getattr(self.before, name), getattr(self.after, name))
            for name, words in names.items()
        ]
        rows.insert(1, ("Bytes of the file passed", self.passed, self.after.bytes))
        return [row for row in rows if None not in row]

    @property
    def about_time(self) -> str:
        """What is to be said of the times of an image; nothing where they have no quartiles."""
        before, after = self.before.quartiles, self.after.quartiles
        if before is None or after is None:
            return ""
        how = "time: median and quartiles over alternating passes"
        if before[0] <= after[1] and after[0] <= before[1]:
            return f"{how}; the quartile ranges overlap, so no difference is shown"
        return how
