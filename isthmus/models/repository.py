"""The repository of a model on Hugging Face, or a folder like one: its files, and its settings.

Settings are JSON that others wrote: each field is read as the kind of value that it has to be, and
refused in one line where it is another. What asks for code to be run or downloaded is refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isthmus.runs.files import read_json
from isthmus.runs.imports import of_extra
from isthmus.runs.wording import first_line
from isthmus.types import BadInput

Normalization = tuple[tuple[float, ...], tuple[float, ...]]
"""The mean and the standard deviation of each channel."""

_DEEPEST = 20
"""How deep tables and lists may be nested; those of transformers are at a depth of five or so."""

_BUILT_IN = ("eager", "sdpa", "flex_attention", "batched_mm", "grouped_mm")
"""The ways to compute a layer that transformers has itself; others are downloaded as code."""

_IMPLEMENTATIONS = {
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_internal",
    "experts_implementation",
    "_experts_implementation",
    "_experts_implementation_internal",
}
"""The fields that name the way to compute a layer. Others begin like them and name none, as
_attn_implementation_autoset, which is true or false."""


@dataclass(frozen=True)
class Settings:
    """A table of settings, whose `place` refusals name first. A field that is null is none.

    Every method that reads a field raises BadInput where it is of another kind.
    """

    place: str
    fields: Mapping[str, Any]

    @classmethod
    def read(cls, repository: str, file: str) -> Settings | None:
        """Return the settings in a file of a repository, None where it has no such file.

        Raises BadInput where the file cannot be read, is no table, or is nested too deeply.
        """
        path = file_of(repository, file)
        if path is None:
            return None
        held = read_json(path, fix="copy or download it again")
        place = f"{file} of {repository}"
        if not isinstance(held, dict):
            raise BadInput(
                f"{place}, a {type(held).__name__}", expected="a table", fix="check the repository"
            )
        for depth, _, _ in _parts(held):
            if depth > _DEEPEST:
                raise BadInput(
                    f"{place}, nested more than {_DEEPEST} deep",
                    expected="settings of a network",
                    fix="check the repository",
                )
        return cls(place, held)

    def _of_kind(self, name: str, kind: str, fits: Callable[[Any], bool]) -> Any:
        value = self.fields.get(name)
        if value is not None and not fits(value):
            raise BadInput(
                f"{self.place}, where {name} is {_shown(value)}",
                expected=kind,
                fix="correct the file, or have it corrected",
            )
        return value

    def text(self, name: str) -> str | None:
        """Return a text."""
        value: str | None = self._of_kind(name, "a text", lambda held: isinstance(held, str))
        return value

    def truth(self, name: str, *, default: bool) -> bool:
        """Return true or false."""
        value = self._of_kind(name, "true or false", lambda held: isinstance(held, bool))
        return default if value is None else bool(value)

    def number(self, name: str) -> float | None:
        """Return a number."""
        value = self._of_kind(name, "a number", _is_number)
        return None if value is None else float(value)

    def count(self, name: str) -> int | None:
        """Return a whole number of 1 or more."""
        value: int | None = self._of_kind(name, "a whole number of 1 or more", is_count)
        return value

    def table(self, name: str) -> Settings:
        """Return a table within, without fields where there is none."""
        value = self._of_kind(name, "a table", lambda held: isinstance(held, dict))
        return Settings(f"{name} in {self.place}", value or {})

    def _numbers(self, name: str) -> tuple[float, ...]:
        return tuple(map(float, self._of_kind(name, "a list of numbers", _are_numbers) or ()))

    def normalization(self, mean: str, std: str) -> Normalization | None:
        """Return the lists of these names, None where there is neither.

        Raises BadInput where there is one alone, too.
        """
        found = self._numbers(mean), self._numbers(std)
        if bool(found[0]) != bool(found[1]):
            there, missing = (mean, std) if found[0] else (std, mean)
            raise BadInput(
                f"{self.place}, which has {there} and no {missing}",
                expected="both, or none",
                fix="pass --normalize MEAN,STD",
            )
        return found if found[0] else None

    def check_runs_no_code(self) -> None:
        """Raise BadInput where the settings, at any depth, name code of the repository or of
        another one.
        """
        for _, name, value in _parts(self.fields):
            if name == "auto_map":
                raise BadInput(
                    f"{self.place}, whose network is built by code in its repository",
                    expected="one that transformers or timm knows",
                    fix="that code is never run; read it, and pass it as PKG.MODULE:FACTORY",
                )
            if name in _IMPLEMENTATIONS:
                self._check_built_in(name, value)

    def _check_built_in(self, name: str, chosen: Any) -> None:
        """Raise BadInput where a layer is computed by code that transformers downloads: where a
        text, at any depth, names no way of its own.
        """
        for _, _, each in _parts(chosen):
            if isinstance(each, str) and each not in _BUILT_IN:
                raise BadInput(
                    f"{self.place}, where {name} is {_shown(each)}, code to download",
                    expected=f"one of {', '.join(_BUILT_IN)}",
                    fix=f"that code is never run; remove {name}, which changes no weight",
                )


def is_count(value: Any) -> bool:
    """Return whether a value is a whole number of 1 or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_number(value: Any) -> bool:
    """Return whether a value is a number that a float holds; NaN and infinity are numbers, too."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return isinstance(value, float) or abs(value) < 2**1000


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_number, value))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _parts(value: Any) -> Iterator[tuple[int, str, Any]]:
    """Yield the depth, the name and the value of everything in nested tables and lists; what is in
    a list has the name of the list.
    """
    left = [(0, "", value)]
    while left:  # no recursion: others may have nested as deep as they like
        depth, name, value = left.pop()
        yield depth, name, value
        if isinstance(value, Mapping):
            left += [(depth + 1, key, part) for key, part in value.items()]
        elif isinstance(value, list):
            left += [(depth + 1, name, part) for part in value]


def file_of(repository: str, file: str) -> Path | None:
    """Return a file of a folder, or of a repository on Hugging Face; None where it has no such
    file. Raises BadInput where the repository cannot be reached.
    """
    if os.path.isdir(repository):  # which is false of a name that is too long, too
        path = Path(repository) / file
        return path if os.path.lexists(path) else None
    hub = of_extra("huggingface_hub", "hf", f"--model hf:{repository}")
    try:
        return Path(hub.hf_hub_download(repository, file))
    except Exception as error:  # of the network, of rights, of names: open-ended
        if _is_without(hub, repository, file, error):
            return None
        raise BadInput(
            f"{file} of {repository!r} ({first_line(error)})",
            expected="a folder, or a repository that can be reached",
            fix="download it, and pass the folder: hf:FOLDER",
        ) from error


def _is_without(hub: Any, repository: str, file: str, error: Exception) -> bool:
    """Return whether a repository has no such file: it says so, or did when it was last asked."""
    if isinstance(error, hub.utils.LocalEntryNotFoundError):  # nobody could be asked
        return hub.try_to_load_from_cache(repository, file) is hub._CACHED_NO_EXIST
    return isinstance(error, hub.utils.EntryNotFoundError)
