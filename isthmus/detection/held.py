"""The file of a detector: the types of its record, its tensors, and one hash over everything in it.

Whatever is in a file that comes from outside is refused in one line or is a detector; behind this
door nothing is checked again.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Self

import torch
from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from torch import Tensor

from isthmus.detection.digests import BYTES
from isthmus.detection.fitted import Fitted
from isthmus.detection.neighbors import NeighborScore
from isthmus.detection.probes import Probes
from isthmus.detection.score import Score, malformed, taken
from isthmus.detection.table import scores
from isthmus.detection.thresholds import Threshold
from isthmus.runs.identity import sha256_of
from isthmus.runs.wording import malformed_at
from isthmus.types import Params

RECORD, WHOLE = "detector", "sha256"
"""Where the metadata of the file hold the record, and the hash over record and tensors."""

_REFERENCE, _CALIBRATION = "reference_images", "calibration_images"
"""The tensors of the digests."""

Positive = Annotated[int, Ge(1)]
Share = Annotated[float, Ge(0), Le(1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def record(self) -> dict[str, Any]:
        """Return the part as plain JSON."""
        return self.model_dump(mode="json", by_alias=True)


class HeldThreshold(_Part):
    """A threshold, as `Threshold.record` writes it."""

    value: float
    false_positive_rate: Annotated[float, Gt(0), Lt(1)]
    low: Share
    high: Share
    samples: Positive


class HeldDetector(_Part):
    """The record of a detector: its settings, its threshold, and what it is bound to."""

    score: str
    neighbors: Positive
    index: str
    layers: tuple[str, ...]
    shape: tuple[Positive, Positive, Positive]
    scales: Annotated[tuple[Annotated[float, Gt(0)], ...], MinLen(1)]
    network: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")]
    reference: str
    reference_samples: Annotated[Positive, Field(alias="reference samples")]
    threshold: HeldThreshold | None

    @classmethod
    def read(cls, metadata: Mapping[str, str]) -> Self:
        """Return the record in the metadata of a file. Raises BadInput where they hold none."""
        if RECORD not in metadata:
            raise malformed("tensors that are no detector")
        if WHOLE not in metadata:
            raise malformed("a detector of an older isthmus, whose file has no hash")
        try:
            return cls.model_validate_json(metadata[RECORD])
        except ValidationError as error:
            why = malformed_at(error)
            raise malformed(f"no detector: its record is malformed{why}") from error


def tensors_of(fitted: Fitted, calibration: Tensor) -> Params:
    """Return the tensors of a file: what was learned, and the digests (n, 16) of the calibration
    samples.
    """
    tensors = {_REFERENCE: fitted.images, _CALIBRATION: calibration}
    for i, part in enumerate(fitted.parts):
        tensors |= {f"{_begun(i)}{name}": value for name, value in part.state().items()}
    if fitted.probes is not None:
        tensors |= fitted.probes.state()
    return tensors


def fitted_in(tensors: Params, held: HeldDetector) -> Fitted:
    """Return what was learned, from the tensors of a file. Raises BadInput where they are not those
    of the record.
    """
    images = _digests(tensors, _REFERENCE, held.reference_samples)
    if sha256_of(images) != held.reference:
        raise malformed(f"{_REFERENCE} other than those of the record")
    if bool(held.network) != Probes.are_in(tensors) or (held.layers and not held.network):
        raise malformed("a detector of a network without its probes, or of none with them")
    probes = Probes.from_state(tensors, held.layers, held.shape) if held.network else None
    parts = _parts(tensors, held)
    _check_widths(parts, held, probes)
    return Fitted(parts, held.scales, held.shape, images, held.network, probes)


def calibrated_in(tensors: Params, held: HeldDetector) -> tuple[Threshold | None, Tensor]:
    """Return the threshold and the digests (n, 16) of the calibration samples. Raises BadInput
    where the tensors hold other digests than the record says.
    """
    if held.threshold is None:
        return None, _digests(tensors, _CALIBRATION, 0)
    threshold = Threshold(**held.threshold.model_dump())
    return threshold, _digests(tensors, _CALIBRATION, threshold.samples)


def _begun(part: int) -> str:
    """Return what the names of the tensors of a part of the score begin with."""
    return f"part{part}."


def _digests(tensors: Params, name: str, count: int) -> Tensor:
    """Return the digests (count, 16) of that name. Raises BadInput where they are none."""
    digests = taken(tensors, name)
    if digests.dtype != torch.uint8 or tuple(digests.shape) != (count, BYTES):
        raise malformed(f"{name} of shape {tuple(digests.shape)} and type {digests.dtype}")
    return digests


def _parts(tensors: Params, held: HeldDetector) -> tuple[Score, ...]:
    """Return the scores in the tensors of a file. Raises BadInput where they are not those of the
    record.
    """
    kind = scores()[held.score]
    parts = []
    for i in range(len(kind.inputs(max(1, len(held.layers))))):
        begun = _begun(i)
        state = {k.removeprefix(begun): v for k, v in tensors.items() if k.startswith(begun)}
        parts.append(kind.from_state(state))
    if len(parts) != len(held.scales):
        raise malformed(f"{len(held.scales)} scales for {len(parts)} scores")
    for part in parts:
        if isinstance(part, NeighborScore) and (
            (part.neighbors, len(part.reference)) != (held.neighbors, held.reference_samples)
        ):
            raise malformed(f"{part.neighbors} neighbors among {len(part.reference)} rows")
    return tuple(parts)


def _check_widths(parts: tuple[Score, ...], held: HeldDetector, probes: Probes | None) -> None:
    """Raise BadInput where scores read other numbers of features than the layers have."""
    widths: tuple[int, ...] = (math.prod(held.shape),)
    if held.layers and probes is not None:
        widths = probes.widths(held.layers)
    groups = scores()[held.score].inputs(len(widths))
    for part, group in zip(parts, groups, strict=True):
        if part.widths() != tuple(widths[layer] for layer in group):
            raise malformed(f"scores of {part.widths()} features in layers of {widths}")


def metadata_of(record: Mapping[str, Any], tensors: Params) -> dict[str, str]:
    """Return the metadata of a file with this record and these tensors."""
    text = json.dumps(record)
    return {RECORD: text, WHOLE: _whole_sha256(text, tensors)}


def check_whole(metadata: Mapping[str, str], tensors: Params) -> None:
    """Raise BadInput where record or tensors are not those that were saved."""
    if _whole_sha256(metadata[RECORD], tensors) != metadata[WHOLE]:
        raise malformed("a detector that is damaged: its SHA-256 is another one")


def _whole_sha256(record: str, tensors: Params) -> str:
    lines = [f"{name} {sha256_of(tensors[name])}" for name in sorted(tensors)]
    return hashlib.sha256("\n".join([record, *lines]).encode()).hexdigest()
