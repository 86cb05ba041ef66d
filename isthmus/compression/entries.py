"""What a packed file says of itself, as types: which tensors are packed, and how.

A file comes from outside: behind `Description.read` nothing of this is checked again.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from annotated_types import Ge
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from isthmus.compression.quantization.grids import GRIDS, Grid
from isthmus.runs.wording import first_line, malformed_at
from isthmus.types import BadInput

Shape = tuple[Annotated[int, Ge(0)], ...]


class _Described(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class _Packed(_Described):
    """A tensor in several parts, each of which stands in the file once."""

    shape: Shape
    parts: tuple[str, ...]

    @model_validator(mode="after")
    def _has_each_part_once(self) -> Self:
        if len(set(self.parts)) < len(self.parts):
            raise ValueError("a part is named twice")
        return self


class MaskEntry(_Packed):
    """A masked tensor: its values, and their places as bits or gaps."""

    kind: Literal["mask"] = "mask"


class ZerosEntry(_Packed):
    """An ordinary tensor of which many values are 0, which nothing holds there: the other values,
    and their places as bits or gaps.
    """

    kind: Literal["zeros"] = "zeros"


class GridEntry(_Packed):
    """A tensor on a grid: codes of levels, and the scale; where zeros have no code, also the places
    of what has one, as bits or gaps.
    """

    kind: Literal["grid"] = "grid"
    top: int
    step: int

    @property
    def grid(self) -> Grid:
        """The grid of these levels."""
        return Grid(self.top, self.step)

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        if self.grid not in GRIDS.values():
            raise ValueError("the levels of no grid")
        return self


Entry = Annotated[MaskEntry | ZerosEntry | GridEntry, Field(discriminator="kind")]


LONGEST = len(repr(-1.7976931348623157e308))
"""Characters of the longest number with a decimal point."""


class Description(_Described):
    """The JSON in the metadata of a packed file."""

    packed: dict[str, Entry]
    record: dict[str, Any]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

    @classmethod
    def written(cls, packed: dict[str, Entry], record: dict[str, Any], sha256: str) -> str:
        """Return the text of a description, as long for any time that the record says was taken, so
        that no clock decides how many bytes a file has. Raises BadInput where the record is no
        plain JSON.
        """
        try:
            said = cls(packed=packed, record=record, sha256=sha256)
            text = json.dumps(said.model_dump(), sort_keys=True, allow_nan=False)
            cls.read(text)
        except (ValidationError, TypeError, ValueError, RecursionError) as error:
            why = malformed_at(error) if isinstance(error, ValidationError) else first_line(error)
            raise BadInput(
                f"a record that is no plain JSON ({why.strip(' :')})",
                expected="a dict of text, finite numbers, lists and dicts, with text for its keys",
                fix="pass the record that prune or quantize has made",
            ) from error
        return text + " " * (LONGEST - len(repr(record.get("seconds", 0.0))))

    @classmethod
    def read(cls, text: str) -> Self:
        """Return what a text in JSON says. Raises ValueError, in one line, where it is none."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise ValueError(f"malformed{malformed_at(error)}") from error
