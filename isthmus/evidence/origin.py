"""Where a result comes from: what goes into every report and every file that is written."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from isthmus.data.dataset import Data
from isthmus.runs.versions import versions


def _program() -> str:
    """The program as a person calls it, without the place where it is installed."""
    file = Path(sys.argv[0])
    return f"python -m {file.parent.name}" if file.name == "__main__.py" else file.name


def _shown(argument: str) -> str:
    """Return an argument with an absolute path by its last name: where this machine keeps its files
    is nobody's matter.

    >>> _shown("/home/me/data/cifar10"), _shown("--data=/home/me/bonafide.npz"), _shown("data/cifar10")
    ('cifar10', '--data=bonafide.npz', 'data/cifar10')
    """
    option, equals, value = (
        argument.partition("=") if argument.startswith("--") else ("", "", argument)
    )
    return option + equals + (Path(value).name if Path(value).is_absolute() else value)


def provenance(seed: int, data: Mapping[str, Data]) -> dict[str, Any]:
    """Return versions, platform, seed, command line, time, and the hash, count and classes of each
    data set.

    >>> provenance(1, {})["seed"]
    1
    """
    sets = {
        name: {"sha256": d.sha256, "n": len(d), "classes": d.num_classes}
        for name, d in data.items()
    }
    return {
        **versions(),
        "platform": platform.platform(),
        "seed": seed,
        "command": " ".join([_program(), shlex.join(map(_shown, sys.argv[1:]))]),
        "data": sets,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
