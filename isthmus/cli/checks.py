"""What the types of options refuse before a command starts, and before anything heavy is imported.

Each check is a cyclopts validator, `(type, value) -> None`; `main` prints what it raises.
"""

from __future__ import annotations

import glob
from collections.abc import Collection, Iterable, Sequence
from dataclasses import fields
from pathlib import Path as File
from tempfile import TemporaryFile
from typing import Any

from isthmus import runs
from isthmus.runs.locks import check_vacant, is_there
from isthmus.runs.wording import absent, first_line
from isthmus.types import BadInput

OF_TORCH = (".pt", ".pth", ".ckpt", ".bin", ".pkl")


def finite(_: Any, value: Any) -> None:
    """Refuse NaN, infinity, and integers that no random generator takes as a seed.

    Raises ValueError.
    """
    if isinstance(value, (int, float)) and not abs(value) < 2**40:  # NaN is not either
        raise ValueError("Expected a finite number below 2^40.")


def whole(_: Any, tokens: Sequence[Any]) -> int:
    """Return the integer that a word stands for, be it as 30.0 or 3e1; a converter of cyclopts.

    Raises ValueError for anything else, where cyclopts by itself rounds.
    """
    text = tokens[0].value
    try:
        number = float(text)
        if number.is_integer() and abs(number) < 2**53:
            return int(number)
        return int(text)
    except (ValueError, OverflowError):
        raise ValueError(f"{text[:40]!r} is no whole number.") from None


def existing(_: Any, value: Any) -> None:
    """Refuse files that are not there. Raises BadInput."""
    if value is not None:
        _exists(value, "a file")


def _exists(file: File, expected: str) -> None:
    if not file.exists():
        raise absent(file, expected)


def source(_: Any, value: Any) -> None:
    """Refuse samples that are named by a path that does not exist. Raises BadInput.

    A name without a suffix or a folder may be a named set, and is left to `load_data`.
    """
    if value is None or File(value).exists():
        return
    path = File(value.rpartition("#")[0] or value)
    if glob.has_magic(str(path)) or not (path.suffix or len(path.parts) > 1):
        return
    _exists(path, "a file or folder")


def new(_: Any, value: Any) -> None:
    """Refuse an output file that exists, that is named as what it will not be, or that cannot be
    made.

    Raises BadInput.
    """
    if value is not None:
        unwritten(value)


def new_npz(_: Any, value: Any) -> None:
    """Refuse what `new` refuses, and file names that do not end in .npz. Raises BadInput."""
    if value is not None and unwritten(value).suffix != ".npz":
        raise BadInput(
            f"{value}",
            expected="a file name that ends in .npz",
            fix=f"write {value.with_suffix('.npz')}",
        )


def unwritten(out: File) -> File:
    """Return the file; refuse one that exists, is named as what it will not be, or cannot be made.

    Raises BadInput.
    """
    if is_there(out) or not out.name:
        got = f"{out}, which exists" if out.name else "an empty name"
        fix = "choose another --out; nothing is overwritten"
        raise BadInput(got, expected="a new file", fix=fix)
    if out.suffix in OF_TORCH:
        raise BadInput(
            f"{out}, a name for pickles of torch",
            expected="safetensors, JSON or npz, as written",
            fix="choose another --out",
        )
    try:
        with TemporaryFile(dir=next(filter(is_there, out.absolute().parents))):
            return out
    except OSError as error:
        place = f"{out}, in a place that cannot be written ({first_line(error)})"
        raise BadInput(place, expected="a folder of yours", fix="choose another --out") from error


def changed(options: Any) -> list[str]:
    """Return the names of the fields of a dataclass that are not at their default."""
    return [
        field.name for field in fields(options) if getattr(options, field.name) != field.default
    ]


def without_effect(names: Iterable[str], *, on: str, fix: str = "leave them out") -> None:
    """Refuse options that have no effect on what a command is to do. Raises BadInput where there
    are any.
    """
    given = ", ".join(f"--{name.replace('_', '-')}" for name in names)
    if given:
        raise BadInput(given, expected=f"options that have an effect on {on}", fix=fix)


def unclaimed(out: File, *, resume: bool | None, leaves: Collection[str] = ()) -> None:
    """Refuse an output folder that holds other files, or a run without --resume. Raises BadInput.

    `resume` is None for a command without --resume, which refuses any run but one that was killed
    (`runs.cut_off`, with the files that the command `leaves`): it starts over.

    Whether it is the same run is left to `claimed`.
    """
    if not (out / "run.json").exists():
        check_vacant(out)
    elif not resume and not (resume is None and runs.cut_off(out, leaves)):
        way_on = "" if resume is None else ", or pass --resume to go on with the same run"
        raise BadInput(
            f"{out}, which holds a run already",
            expected="a new folder",
            fix=f"choose another --out{way_on}",
        )


def state_beside(out: File, *, resume: bool) -> File:
    """Return where the training of `out` keeps its state.

    Raises BadInput if there is an unfinished one, without --resume.
    """
    state = out.with_name(f".{out.name}.state")
    if is_there(state) and not resume:
        raise BadInput(
            f"an unfinished run of {out}",
            expected="a new file",
            fix="pass --resume to go on with it",
        )
    return state
