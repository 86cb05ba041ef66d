"""The command that a reader runs next, made of the one that wrote the record."""

from __future__ import annotations

import shlex
from pathlib import Path, PurePath
from typing import Literal

from isthmus.evidence.record import Provenance

Step = Literal["compare", "measure", "inspect", "check trigger", "look", "watch"]
"""What to do next: run other defenses, measure on more images, search for a trigger, see whether
the trigger works at all, put the samples in order, or watch inputs in use.
"""

_MODEL, _CLEAN = "PKG.MODULE:FACTORY", "TRUSTED_IMAGES"


def next_command(provenance: Provenance, step: Step) -> str:
    """Return one command line for the step, with the names of the run where it was a command.

    The paths are those of that command: in a record `.../` stands for folders that it leaves out.
    """
    words = shlex.split(provenance.command or "")
    given = _options(words)
    kind = provenance.network
    factory = (kind.model if kind else None) or _MODEL
    model, clean = given.get("--model", factory), given.get("--clean", _CLEAN)
    network = ["--model", model]
    for name in ("--classes", "--resize", "--normalize"):
        network += [name, given[name]] if name in given else []
    received = "RECEIVED.safetensors"
    if provenance.checkpoint:
        received = _as_given(provenance.checkpoint.path, words)
    out = given.get("--out", "demo" if "demo" in words else "OUT").rstrip("/")
    repaired = str(Path(out) / "repaired.safetensors")
    attack = [name for name in ("--data", "--trigger", "--target") if name in given]
    known = [word for name in attack for word in (name, given[name])]
    trigger = [word for name in attack if name != "--data" for word in (name, given[name])]
    match step:
        case "compare":
            line = ["compare", received, *network, "--clean", clean, *known]
            line += ["--out", f"{out}-compared"]
        case "measure":
            line = ["evaluate", repaired, *network, "--data", "MORE_IMAGES", *trigger]
        case "inspect":
            line = ["inspect", repaired, *network, "--clean", clean]
        case "check trigger":
            line = ["evaluate", received, *network, *known]
        case "look":
            line = ["repair", received, *network, "--clean", "CORRECTED_IMAGES", *known]
            line += ["--out", f"{out}-2"]
        case "watch":
            line = ["detect", "fit", repaired, *network, "--clean", clean]
            line += ["--out", f"{out}-detector"]
    return shlex.join(["isthmus", *line])


def _as_given(path: str, words: list[str]) -> str:
    """Return a path as the command line has it, whose last name alone a record may hold."""
    name = PurePath(path).name
    return next((word for word in words if PurePath(word).name == name), path)


def _options(words: list[str]) -> dict[str, str]:
    """Return the values of a command line's options, given as `--name value` or `--name=value`."""
    found = {}
    for i, word in enumerate(words):
        name, equals, value = word.partition("=")
        if not name.startswith("--"):
            continue
        if equals:
            found[name] = value
        elif words[i + 1 : i + 2] and not words[i + 1].startswith("--"):
            found[name] = words[i + 1]
    return found
