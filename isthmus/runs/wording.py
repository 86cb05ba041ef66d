"""Small phrases for messages: suggestions, percentages, shortened lists; numbers in texts."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from isthmus.types import BadInput

if TYPE_CHECKING:
    from pydantic import ValidationError


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return the way out of an unknown word: the known words near it, else the first few of them.

    >>> suggestion("cifar", ["digits", "cifar10"])
    'did you mean cifar10?'
    >>> suggestion("x", ["digits", "cifar10"]), suggestion("x", [])
    ('choose one of cifar10, digits', 'check the spelling')
    """
    known = sorted(set(known))
    near = get_close_matches(word, known, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return (
        f"choose one of {', '.join(known[:12])}{', ...' if len(known) > 12 else ''}"
        if known
        else "check the spelling"
    )


def check_known(kind: str, word: str, known: Iterable[str]) -> None:
    """Raise BadInput where a word is none of the known ones of its kind, as a data set.

    >>> check_known("data set", "cifar", ["digits", "cifar10"])
    Traceback (most recent call last):
    isthmus.types.BadInput: got data set 'cifar'; expected a known data set; did you mean cifar10?
    """
    known = list(known)
    if word not in known:
        raise BadInput(f"{kind} {word!r}", expected=f"a known {kind}", fix=suggestion(word, known))


def whole_number(text: str) -> int | None:
    """Return the number that a text is in decimal digits alone, or None where it is no such text.

    More digits than Python reads (4,300 unless it is told otherwise) are none.

    >>> whole_number("12"), whole_number("-1"), whole_number("1.5"), whole_number("9" * 5000)
    (12, None, None, None)
    """
    try:
        return int(text) if text.isdecimal() else None
    except ValueError:
        return None


def absent(path: Path, expected: str) -> BadInput:
    """Return the refusal of a file that does not exist, with the visible names beside it."""
    folder = path.parent
    beside = _names_in(folder)
    visible = [name for name in beside if not name.startswith(".")]
    return BadInput(
        f"{path}, which does not exist", expected=expected, fix=suggestion(path.name, visible)
    )


def _names_in(folder: Path) -> list[str]:
    """Return the names in a folder; none where it is no folder, or cannot be read."""
    try:
        return [entry.name for entry in folder.iterdir()]
    except (OSError, ValueError):
        return []


def unwritten(path: Path | str, error: BaseException) -> BadInput:
    """Return the refusal of a place where nothing can be written."""
    taken_or_forbidden = isinstance(error, (FileExistsError, NotADirectoryError, PermissionError))
    way_out = "choose another place"
    if not taken_or_forbidden:
        way_out = f"free some space or {way_out}"
    return BadInput(
        f"{path}, which could not be written ({first_line(error)})",
        expected="a folder that can be written, with room on the disk",
        fix=f"{way_out}; nothing was left half-written",
    )


def percent(share: float) -> str:
    """Return a share in percent, with as many decimals as it takes not to claim all or nothing
    wrongly.

    A space that does not break stands before the sign.

    >>> [percent(p).replace("\u00a0", " ") for p in (0.8412, 1.0, 0.9998, 0.0)]
    ['84.1 %', '100.0 %', '99.98 %', '0.0 %']
    """
    digits = next((d for d in (1, 2, 3) if 0 < round(100 * share, d) < 100), 1)
    return f"{100 * share:.{digits}f}\u00a0%"


def abbreviated(names: Iterable[str], limit: int = 3) -> str:
    """Return the first few names and how many more there are."""
    listed = sorted(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more


def counted(number: int, one: str, more: str) -> str:
    """Return a number and what is counted, in words for one and for more.

    >>> counted(1, "tensor has", "tensors have"), counted(2, "tensor has", "tensors have")
    ('1 tensor has', '2 tensors have')
    >>> counted(2000, "step", "steps")
    '2,000 steps'
    """
    return f"{number:,} {one if number == 1 else more}"


def malformed_at(error: ValidationError) -> str:
    """Return where a record from outside is malformed and why, to follow the word "malformed"."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = f" at {'.'.join(map(str, first['loc']))!r}" if first["loc"] else ""
    return f"{where} ({first['msg'].removeprefix('Value error, ')})"


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, its name where it says nothing; with the next
    one where it ends in a colon.

    >>> first_line(ValueError("a field:\\n  TypeError: too long\\n")), first_line(ValueError())
    ('a field: TypeError: too long', 'ValueError')
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if lines[0].endswith(":"):
        lines[0] = " ".join([lines[0], *(line.strip() for line in lines[1:2])])
    return lines[0][:200]
