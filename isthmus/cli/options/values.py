"""Options of one value: what it may be is checked before anything is loaded."""

from __future__ import annotations

from pathlib import Path as File
from typing import Annotated

from cyclopts import Parameter

from isthmus.cli import checks

Clean = Annotated[
    str,
    Parameter(
        name="--clean",
        validator=checks.source,
        help="Trusted samples: a named set, Parquet, image folder or .npz. SET#n=500 draws 500 of "
        "them at random.",
    ),
]
Samples = Annotated[str, Parameter(validator=checks.source)]
InputFile = Annotated[File, Parameter(validator=checks.existing)]
NewFile = Annotated[File, Parameter(validator=checks.new)]
NewNpz = Annotated[File, Parameter(validator=checks.new_npz)]
Whole = Annotated[int, Parameter(validator=checks.finite, converter=checks.whole)]
Number = Annotated[float, Parameter(validator=checks.finite)]
