"""Reads many mutated files of every kind: each has to be read, or refused in one line.

    python .ci/fuzz.py [COUNT] [SEED]    by default 100,000 mutations in all

A part of it is in the suite (tests/test_fuzz.py).
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.fuzzed import fuzz, seeds


def main() -> None:
    """Fuzz each kind for its share, and leave with status 1 where one fails."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    failed = 0
    with TemporaryDirectory() as place:
        files = seeds(Path(place))
        for kind, (file, reader) in files.items():
            try:
                words = fuzz(kind, file, reader, count // len(files), seed)
                print(f"{kind}: {words}", flush=True)
            except Exception as error:
                failed += 1
                print(f"{kind}: {type(error).__name__}: {error} {error.__notes__}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
