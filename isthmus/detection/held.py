"""What the file of a detector holds: the types of its record, and one hash over everything in it.

Whatever is in a file that comes from outside is refused in one line or is a detector; behind this
door nothing is checked again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Self

import torch
from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from torch import Tensor

from isthmus.detection.score import malformed
from isthmus.runs.identity import sha256_of
from isthmus.types import Params

RECORD, WHOLE = "detector", "sha256"
"""Where the metadata of the file hold the record, and the hash over record and tensors."""

Positive = Annotated[int, Ge(1)]
Share = Annotated[float, Ge(0), Le(1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class HeldThreshold(_Part):
    """A threshold, as `Threshold.record` writes it."""

    value: float
    false_positive_rate: Annotated[float, Gt(0), Lt(1)]
    low: Share
    high: Share
    samples: Positive


class HeldDetector(_Part):
    """The record of a detector, as `ManifoldDetector.record` writes it."""

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
            first = error.errors(include_url=False, include_input=False)[0]
            where = f" at {'.'.join(map(str, first['loc']))!r}" if first["loc"] else ""
            why = f"{where} ({first['msg']})"
            raise malformed(f"no detector: its record is malformed{why}") from error


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


def check_digests(digests: Tensor, count: int, name: str) -> Tensor:
    """Return the digests (count, 16) of images. Raises BadInput where they are something else."""
    if digests.dtype != torch.uint8 or tuple(digests.shape) != (count, 16):
        raise malformed(f"{name} of shape {tuple(digests.shape)} and type {digests.dtype}")
    return digests


def taken(tensors: Params, name: str) -> Tensor:
    """Return the tensor of that name. Raises BadInput where there is none."""
    if name not in tensors:
        raise malformed(f"a detector without {name}")
    return tensors[name]
