"""The record of a report: what report.json holds, as types.

The JSON Schema of a report is generated from these types (`python -m isthmus.evidence.schema`), so
the two cannot differ. A record that comes from outside is validated here, at the door, in `Report.
read`; behind it nothing is checked again.

The types are pydantic's: measures lie by name beside the other entries of a network, which pydantic
describes as typed extras; msgspec, which has no such thing, would need a second form of every
record and a schema mended by hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from pathlib import Path as File
from typing import Annotated, Any, ClassVar, Literal, Self

from annotated_types import Ge, Le, MinLen
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    StringConstraints,
    ValidationError,
    model_validator,
)

from isthmus.metrics.names import ATTACK_SUCCESS, BONAFIDE_ACCURACY, BONAFIDE_LOSS, LANDSCAPE
from isthmus.metrics.values import SHARE, as_record, recorded_unit
from isthmus.runs.files import read_json
from isthmus.runs.wording import malformed_at
from isthmus.types import BadInput

SCHEMA = "isthmus-report/1"
"""The version of the record. A change that breaks readers raises the number."""


# ── what entries may be ───────────────────────────────────────────────────────────────────────────
def as_json(value: Any) -> Any:
    """Return a value as strict JSON can hold it: numbers that are not finite become null, tuples
    lists.

    Raises ValueError for anything but mappings, sequences, numbers, text, booleans and None.

    >>> as_json({"loss": float("nan"), "t": (0.0, 1.0)})
    {'loss': None, 't': [0.0, 1.0]}
    """
    if isinstance(value, Mapping):
        return {_encodable(str(key)): as_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(entry) for entry in value]
    if isinstance(value, float):
        return _finite(float(value))
    if value is None or isinstance(value, str | bool | int):
        return _encodable(value)
    raise ValueError(f"a {type(value).__name__} is neither a number nor text")


def _encodable(value: Any) -> Any:
    """Replace what no encoding has: a file name may hold any bytes."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not isfinite(value) else value


Text = Annotated[str, BeforeValidator(_encodable)]
Sentence = Annotated[str, MinLen(1), BeforeValidator(_encodable)]
Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Flag = Annotated[bool, Strict()]
Whole = Annotated[int, Strict()]
Count = Annotated[int, Strict(), Ge(0)]
Positive = Annotated[int, Strict(), Ge(1)]
Finite = Annotated[float, Strict()]
Fraction = Annotated[float, Strict(), Ge(0), Le(1)]
Number = Annotated[Finite | None, BeforeValidator(_finite)]
"""A number; None where it was not finite."""
Quartiles = tuple[Number, Number, Number]
Seconds = Annotated[Annotated[float, Strict(), Ge(0)] | None, BeforeValidator(_finite)]
Json = Annotated[Any, BeforeValidator(as_json)]


class RecordPart(BaseModel):
    """A part of a record, with the entries that it declares and no others."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    contract: ClassVar[str] = "report.schema.json"
    """What a record has to satisfy, as a refusal names it."""

    @classmethod
    def read(cls, record: Any) -> Self:
        """Return the part that a record from outside holds. Raises BadInput where it holds none."""
        try:
            return cls.model_validate(record)
        except ValidationError as error:
            raise BadInput(
                f"a record that is malformed{malformed_at(error)}",
                expected=f"a record that satisfies {cls.contract}",
                fix="see docs/report.md, or make the report anew",
            ) from error

    def record(self) -> dict[str, Any]:
        """Return the part as plain JSON; an entry that was not given is absent."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class OpenPart(RecordPart):
    """A part of a record that may hold further entries of any kind."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Json] = Field(init=False)


# ── health of an attack ───────────────────────────────────────────────────────────────────────────
class AttackFindingPart(RecordPart):
    """What one indicator says of an attack: it fires above its threshold, with `below` under it."""

    name: Sentence
    value: Number
    """Null where it was not measured, or not finite."""
    threshold: Number
    """Null for a quantity that is described and not judged."""
    below: Flag
    decisive: Flag
    fired: Flag


class HealthPart(RecordPart):
    """How far the robust accuracy under an attack can be trusted."""

    trustworthy: Flag
    """Whether no decisive indicator fired."""
    warnings: tuple[Sentence, ...]
    """A sentence for each indicator that fired, and what to do about it."""
    attack: Text
    samples: Count
    draws: Positive
    """How many passes of the network made one answer; more than 1 where it is random."""
    undecided: Fraction
    """Share of samples whose answer these draws leave open."""
    indicators: tuple[AttackFindingPart, ...]

    @property
    def decisive(self) -> tuple[str, ...]:
        """The names of the decisive indicators that fired."""
        return tuple(row.name for row in self.indicators if row.fired and row.decisive)


# ── values and measures ───────────────────────────────────────────────────────────────────────────
class Value(RecordPart):
    """A measured number.

    A share of samples has hits, n and its 95 % Wilson interval; a mean over samples has n, their
    standard deviation and its 95 % normal interval; an area under the ROC curve has its counts of
    clean and suspicious inputs and its 95 % interval; others stand alone.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "dependentRequired": {"hits": ["n"], "low": ["high"], "high": ["low"]},
        }
    )

    value: Number
    unit: Text = ""
    """'share', 'nats', another unit, or nothing for a plain number. Records written before values
    had units lack it; there a value with hits is a share, one of a loss is in nats."""
    hits: Count | None = None
    n: Positive | None = None
    clean: Positive | None = None
    suspicious: Positive | None = None
    deviation: Number = None
    low: Number = None
    high: Number = None
    quartiles: tuple[Number, Number, Number] | None = None
    health: HealthPart | None = None
    """Of a robust accuracy: what the check of its attack says."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        given = self.model_fields_set
        if "hits" in given and "n" not in given:
            raise ValueError("hits without n")
        if ("low" in given) != ("high" in given):
            raise ValueError("one end of an interval without the other")
        return self

    @classmethod
    def of(cls, value: float) -> Value:
        """Return the value that a metric gave."""
        return cls(**as_record(value))

    @property
    def interval(self) -> tuple[float, float] | None:
        """The ends of the interval, where there is one that is finite."""
        return None if self.low is None or self.high is None else (self.low, self.high)


def values_of(measured: Mapping[str, float]) -> dict[str, Value]:
    """Return what metrics gave, by name."""
    return {name: Value.of(value) for name, value in measured.items()}


def _with_unit(entry: Any, name: str) -> Any:
    """Add the unit to a value of a record that was written before values had units."""
    if not isinstance(entry, Mapping) or "unit" in entry:
        return entry
    return {**entry, "unit": recorded_unit(entry, name)}


def _shares(entries: Any) -> Any:
    if not isinstance(entries, Mapping):
        return entries
    return {
        name: {**entry, "unit": SHARE} if isinstance(entry, Mapping) else entry
        for name, entry in entries.items()
    }


def _series(entries: Any) -> Any:
    if not isinstance(entries, Mapping):
        return entries
    return {
        name: [_with_unit(entry, name) for entry in series]
        if isinstance(series, list | tuple)
        else series
        for name, series in entries.items()
    }


Series = Annotated[
    dict[Text, Annotated[tuple[Value, ...], MinLen(1)]],
    BeforeValidator(_series),
]
"""For each metric one value per t."""


class Measures(RecordPart):
    """Values by the names of their metrics, beside other entries."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Value] = Field(init=False)
    needed: ClassVar[tuple[str, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _give_units(cls, record: Any) -> Any:
        if not isinstance(record, Mapping):
            return record
        return {
            _encodable(name): entry if name in cls.model_fields else _with_unit(entry, name)
            for name, entry in record.items()
        }

    @model_validator(mode="after")
    def _has_what_is_needed(self) -> Self:
        for name in self.needed:
            if name not in self.measures:
                raise ValueError(f"no {name}")
        return self

    @property
    def measures(self) -> dict[str, Value]:
        """The values, by name."""
        return dict(self.__pydantic_extra__)


def _needs(*names: str) -> ConfigDict:
    """Name entries that have no field of their own as required in the schema."""

    def require(schema: dict[str, Any]) -> None:
        schema["required"] = [*schema.get("required", ()), *names]

    return ConfigDict(json_schema_extra=require)


class Network(Measures):
    """Measures of one network by name; per_class is accuracy within each class that has samples, on
    the evaluation data where there are any, else on the bonafide data.
    """

    model_config = _needs(BONAFIDE_ACCURACY)
    needed: ClassVar = (BONAFIDE_ACCURACY,)

    per_class: Annotated[dict[Text, Value], BeforeValidator(_shares)] = Field(default_factory=dict)


class Measured(Measures):
    """A defense in a comparison: its settings, its cost and what was measured on its network."""

    name: Sentence
    settings: Text
    steps: Count
    """Gradient evaluations that the defense took."""
    seconds: Seconds


class Refused(RecordPart):
    """A defense that refused the network or the samples, and why."""

    name: Sentence
    settings: Text
    refused: Text


ComparisonRow = Measured | Refused
"""A row of a comparison."""


class Baseline(Measured):
    """Another defense from the same endpoint on the same bonafide data; its measures by name."""

    model_config = _needs(BONAFIDE_ACCURACY)
    needed: ClassVar = (BONAFIDE_ACCURACY,)


# ── the parts of a report ─────────────────────────────────────────────────────────────────────────
class ChoicePart(OpenPart):
    """The chosen point and why."""

    t: Fraction
    rule: Text
    reason: Text
    confident: Flag
    """False where the samples do not support the choice; reason says why."""
    coefficients: Annotated[tuple[Fraction, ...], MinLen(2)]
    """Share of the weights that comes from the network as received, each bend, and the other end;
    they sum to 1."""
    samples: Count
    """Bonafide samples that the rule looked at."""


class CurvePart(OpenPart):
    """The curve, and how it was trained."""

    kind: Text
    bends: Count
    steps: Count
    """SGD steps on the curve; 0 for a straight line, which is not trained."""
    endpoint_gradients: Count = 0
    """Gradient evaluations that making the second endpoint took."""
    seconds: Seconds = None
    """Time that the training of the curve took."""
    lr: Finite
    batch_size: Count
    weight_decay: Finite
    clip: Number = None
    """Largest norm of the gradients in training, where they were clipped."""
    length: Number
    """Arc length in weight space."""
    losses: tuple[Number, ...]
    """Mean training loss over equal parts of the budget."""
    low: Fraction | None = None
    """Smallest t that was trained."""
    high: Fraction | None = None
    """Largest t that was trained."""
    rho: Annotated[float, Strict(), Ge(0)] | None = None
    """Radius of the sharpness-aware loss; with it a step takes two gradients."""
    adaptive: Flag | None = None
    """Whether rho counts in units of each weight's size."""
    loss: Text | None = None
    """The loss, where it is not cross-entropy."""
    holdout: Finite | None = None
    """Share of the bonafide samples that chose t and trained nothing."""
    seed: Whole | None = None

    @property
    def gradients(self) -> int:
        """Gradient evaluations of the whole repair, those for the second endpoint included."""
        return (2 if self.rho else 1) * self.steps + self.endpoint_gradients


class PathPart(OpenPart):
    """What was measured along the path, one value per t."""

    t: Annotated[tuple[Fraction, ...], MinLen(1)]
    distance: tuple[Number, ...]
    """Euclidean distance from the network as received, in weight space."""
    length: Number = None
    recalibrated_on: Text
    values: Annotated[
        Series, Field(json_schema_extra={"required": [BONAFIDE_ACCURACY, BONAFIDE_LOSS]})
    ]
    """For each metric one value per t."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for name in (BONAFIDE_ACCURACY, BONAFIDE_LOSS):
            if name not in self.values:
                raise ValueError(f"no {name}")
        for name, column in {"distance": self.distance, **self.values}.items():
            if len(column) != len(self.t):
                raise ValueError(f"{len(column)} values of {name} at {len(self.t)} points")
        return self


class TriggerPart(OpenPart):
    """The trigger that attack success was measured with."""

    trigger: Text
    target: Text
    note: Text


class ErrorsPart(OpenPart):
    """Images with injected errors that the networks were asked about; their hash is in
    provenance.data.
    """

    n: Annotated[int, Strict(), Ge(20)]
    note: Text


class Reactivation(Measures):
    """The repaired network after retraining with a number of triggered images."""

    model_config = _needs(BONAFIDE_ACCURACY, ATTACK_SUCCESS)
    needed: ClassVar = (BONAFIDE_ACCURACY, ATTACK_SUCCESS)

    images: Positive


class QueriesPart(RecordPart):
    """What queries alone bring back: a perturbation that is searched with triggered images, and one
    that is searched with clean ones, each on images of its own.
    """

    queries: Positive
    """Perturbations that were tried in each search."""
    images: Positive
    """Images that each of them was tried on."""
    eps: Fraction
    """Largest change of a pixel."""
    triggered: Value
    """Attack success of trigger and perturbation together."""
    clean: Value
    """Attack success of a perturbation without the trigger: what needs no backdoor."""

    def wakes(self, alone: Value | None) -> bool:
        """Return whether queries wake the trigger beyond doubt: with both, half of the inputs or
        more are led to the target, and more than with queries without the trigger, and than with
        the trigger `alone`, whose attack success that is.
        """
        both = self.triggered
        if both.value is None or both.low is None or both.value < 0.5 or alone is None:
            return False
        return all(
            single.high is not None and both.low > single.high for single in (self.clean, alone)
        )


class CompressedNetwork(Measures):
    """Measures of a network after compression, by name."""

    model_config = _needs(BONAFIDE_ACCURACY)
    needed: ClassVar = (BONAFIDE_ACCURACY,)


class CompressedPart(RecordPart):
    """What one compression, with nothing trained, makes of the network as received and of the
    repaired one; a network that could not be compressed is absent.
    """

    name: Sentence
    settings: Text
    received: CompressedNetwork | None = None
    repaired: CompressedNetwork | None = None


class Permanence(RecordPart):
    """Whether the repair lasts."""

    linear_barrier: Number
    """Loss barrier, in nats, of the straight line from the repaired to the tampered network on
    bonafide data."""
    reactivation: tuple[Reactivation, ...] | None = None
    """Where a trigger was given, one entry for each number of triggered images that the repaired
    network was retrained with."""
    queries: QueriesPart | None = None
    """Where a trigger was given and queries were allowed: what they bring back without
    retraining."""
    compressed: tuple[CompressedPart, ...] = ()
    """Pruning and rounding of both networks: what accuracy is left and whether the backdoor wakes.
    Absent in records of before they were tried."""


class FindingPart(RecordPart):
    """One line of the preflight."""

    text: Sentence
    concern: Flag
    """Whether to look at it before trusting the repair."""
    about: Literal["samples", "choice", "network"]
    """What it throws a doubt on, where it is a concern."""


class PreflightPart(OpenPart):
    """What was known of samples and network before the repair."""

    findings: tuple[FindingPart, ...]
    foreign: Count
    """Bonafide samples that are far from all others, in pixels."""
    doubted: Count
    """Bonafide samples that the network as received is sure to be of another class."""
    statistics: Literal["recalibrated", "frozen", "none"]
    """What becomes of the running statistics of BatchNorm."""
    recalibrated: Value
    """Held-out accuracy of the network as received, after recalibration alone."""


class AnswersPart(RecordPart):
    """How the repair changed answers, on the evaluation data where there are any, else on the
    samples held out.
    """

    n: Positive
    lost: Count
    """Samples that were answered rightly before the repair alone."""
    gained: Count
    """Samples that are answered rightly after it alone."""


class ExamplePart(RecordPart):
    """An image whose answer the repair changed."""

    png: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]+=*$")]
    """The image as a PNG file in base64, at most 64 pixels wide and high."""
    label: Text
    """Its true class."""
    before: Text
    after: Text
    """The answers of the network as received and of the repaired one."""
    kind: Literal["lost", "gained", "triggered"]


class FoundTriggerPart(RecordPart):
    """The oddest trigger that a search found on the network as received."""

    png: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]+=*$")]
    """The trigger on a gray image, as a PNG file in base64."""
    kind: Text
    target: Text
    """The class that it leads to, or 'any': away from the image's own."""
    size: Number
    success: Value
    """Share of samples that it leads there."""
    decision: Text
    reason: Sentence


class TrainingPart(RecordPart):
    """One training of the repair, its settings as they were run."""

    name: Text
    steps: Count
    gradients: Count
    """Gradient evaluations of its steps."""
    lr: Finite
    batch_size: Count
    weight_decay: Finite
    clip: Number = None
    rho: Number = None
    precision: Text
    retries: Count = 0
    """How many trainings with sharper settings failed before this one."""
    wasted: Count = 0
    """Gradient evaluations of those that failed."""
    seconds: Seconds = None


class VerdictPart(RecordPart):
    """What a reader needs to decide; a function of the rest of the record."""

    decision: Literal["use", "use with care", "do not use"]
    reasons: Annotated[tuple[Sentence, ...], MinLen(1)]
    cost: Sentence
    warnings: tuple[Sentence, ...]
    """What is known and speaks for care in use."""
    unknown: tuple[Sentence, ...]
    """What the evidence leaves open."""
    next: Sentence
    """One command to run next."""


class CorrelationPart(RecordPart):
    """How the robustness loss goes with another quantity along the path."""

    first: Text
    second: Text
    m: Annotated[int, Strict(), Ge(4)]
    pearson: Number
    pearson_p: Number
    spearman: Number
    spearman_p: Number


_LANDSCAPE = LANDSCAPE[:8]  # the bounds of the quadratic model are there for some balls only


class Landscape(RecordPart):
    """Robustness along the path: values at each t on the same samples, barriers above the line
    between the ends, correlations of the robustness loss with the other quantities, R^2 on them.
    """

    attack: Text
    t: Annotated[tuple[Fraction, ...], MinLen(1)]
    values: Annotated[Series, Field(json_schema_extra={"required": list(_LANDSCAPE)})]
    barriers: dict[Text, Number]
    correlations: tuple[CorrelationPart, ...]
    explained: dict[Text, Number]
    caveats: tuple[Sentence, ...]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for name in _LANDSCAPE:
            if name not in self.values:
                raise ValueError(f"no {name}")
        return self


class DataSet(OpenPart):
    """Samples, by content."""

    sha256: Hash
    n: Positive
    classes: Positive


class Checkpoint(OpenPart):
    """The file of the network that the record is about."""

    path: Text
    sha256: Hash


class SecondEndpoint(OpenPart):
    """The network at t = 1."""

    kind: Text
    """'given', or how the second endpoint was made."""


class NetworkKind(OpenPart):
    """What the network is."""

    architecture: Text
    """The name of its class."""
    parameters: Count
    model: Text | None = None
    """The factory that builds it, as --model names it."""


class Origin(OpenPart):
    """What is needed to run it again. Further entries may be added; the page shows all of them."""

    isthmus: Text
    torch: Text
    python: Text
    numpy: Text
    platform: Text
    seed: Whole
    time: Text
    data: dict[Text, DataSet]
    command: Text | None = None
    checkpoint: Checkpoint | None = None


class Provenance(Origin):
    """What is needed to run a repair again.

    Further entries may be added; the page shows all of them.
    """

    recalibrated_on: Text
    seconds: Seconds
    other: SecondEndpoint | None = None
    network: NetworkKind | None = None


class Document(RecordPart):
    """A record that stands alone in a file: its entry `schema` names its kind and version."""

    kind: ClassVar[str]
    version: str = Field(alias="schema")
    title: Sentence
    verdict: Sentence
    """The outcome in one plain sentence."""
    provenance: Origin
    limits: tuple[Sentence, ...]
    """What the evidence does not prove, one sentence each."""

    @classmethod
    def read(cls, record: Any) -> Self:
        """Return the document that a record holds; a document is returned as it is.

        Raises BadInput where the record is of another kind or version, or malformed.
        """
        if isinstance(record, cls):
            return record
        version = record.get("schema") if isinstance(record, Mapping) else None
        if version != cls.kind:
            raise BadInput(
                f"a record of schema {version!r}",
                expected=repr(cls.kind),
                fix="make it with this version",
            )
        return super().read(record)


class Report(Document):
    """What was measured before, along and after the repair of one network.

    Shares are fractions in [0, 1], losses are in nats, times in seconds. A number that was not
    finite is null. docs/report.md explains every field.
    """

    kind: ClassVar = SCHEMA
    version: Literal["isthmus-report/1"] = Field(alias="schema")
    provenance: Provenance
    decision: VerdictPart | None = None
    """What to do with the network, what it cost, and what is not known; absent in records of
    before there were decisions."""
    choice: ChoicePart
    curve: CurvePart
    path: PathPart
    before: Network
    """The network as received."""
    after: Network
    """The network at the chosen t."""
    trigger: TriggerPart | None = None
    errors: ErrorsPart | None = None
    preflight: PreflightPart | None = None
    answers: AnswersPart | None = None
    examples: tuple[ExamplePart, ...] = ()
    """Images whose answers changed, the first of each kind."""
    found_trigger: FoundTriggerPart | None = None
    trainings: tuple[TrainingPart, ...] = ()
    """Every training that led to the network, in order."""
    permanence: Permanence | None = None
    landscape: Landscape | None = None
    baselines: tuple[Baseline, ...]

    def entitled(self, title: str) -> Report:
        """Return the report under another title."""
        return self.model_copy(update={"title": title})

    def run_by(self, command: str) -> Report:
        """Return the report with another command line as that of its run."""
        provenance = self.provenance.model_copy(update={"command": command})
        return self.model_copy(update={"provenance": provenance})

    def timed(self, seconds: float) -> Report:
        """Return the report with the time that the whole run took."""
        provenance = self.provenance.model_copy(update={"seconds": seconds})
        return self.model_copy(update={"provenance": provenance})


def read_report(path: File | str) -> Report:
    """Return the report in a report.json.

    Raises BadInput where there is none, or one of another version.
    """
    return Report.read(read_json(path))
