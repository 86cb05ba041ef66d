"""The application: how numbers are read, what is said of the whole, and how a run ends.

Every error a user can cause ends in one line on standard error and exit status 2; an interrupt ends
in status 130."""

from __future__ import annotations

import signal
import sys
from math import isfinite
from typing import Any

from cyclopts import App, CycloptsError, Parameter

from isthmus.runs.notices import plain_notices
from isthmus.runs.processes import joined_ranks
from isthmus.runs.progress import shown
from isthmus.runs.versions import __version__
from isthmus.types import BadInput


def usable(type_: Any, value: Any) -> None:
    """Refuse numbers that no option means: NaN, infinity, and integers that no random generator
    takes as a seed.
    """
    if isinstance(value, (int, float)) and not (isfinite(value) and abs(value) < 2**40):
        raise ValueError("Expected a finite number below 2^40.")


app = App(
    name="isthmus",
    version=__version__,
    help="Repair, evaluate and harden networks along low-loss paths.",
    default_parameter=Parameter(validator=usable),
    suppress_keyboard_interrupt=False,  # `main` says how to go on
)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave the process: status 0, 2 for input that cannot be used, 130
    when interrupted.
    """
    try:
        with joined_ranks(), shown(), plain_notices():
            app(arguments, result_action="return_value", exit_on_error=False, print_error=False)
    except BadInput as error:
        print(f"isthmus: {error}", file=sys.stderr)
        sys.exit(2)
    except CycloptsError as error:
        print(f"isthmus: {' '.join(str(error).split())} See isthmus --help.", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        signal.signal(
            signal.SIGINT, signal.SIG_IGN
        )  # a second one, on the way out, changes nothing
        print(
            "isthmus: interrupted; the same command with --resume goes on from the last save",
            file=sys.stderr,
        )
        sys.exit(130)
