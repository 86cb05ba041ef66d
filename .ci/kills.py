"""Kills every command that goes on at random moments, and compares with undisturbed runs.

    python .ci/kills.py [KILLS] [SEED]    by default until 50 kills have hit

A part of it is in the suite (tests/cli/test_kills.py).
"""

import os
import sys
from itertools import count, cycle
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.killed import COMMANDS, check, prepare

# A run decides on a precision by the clock and keeps to it; two runs may decide otherwise.
os.environ.setdefault("ISTHMUS_PRECISION", "fp32")


def main() -> None:
    """Kill the commands in turn, three times a run at most, until enough kills have hit."""
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    hits = 0
    with TemporaryDirectory() as place:
        folder = Path(place)
        prepare(folder)
        for seed, name in zip(count(first), cycle(COMMANDS)):
            if hits >= wanted:
                break
            hits += check(name, folder, kills=3, seed=seed)
            print(f"{name}, seed {seed}: the same; {hits} kills so far", flush=True)


if __name__ == "__main__":
    main()
