"""The command line: one subcommand per public verb, one file each; files written by one are read by
the next.

Nothing here may import torch at the top of a file: `--help` and a mistyped option answer before it
is loaded. Commands reach the library through its rooms (`from isthmus import models`, then
`models.align(...)`), which load a name when it is used. A new command is a function in a file of
its own and a row of `COMMANDS` in `app.py`.
"""

import sys

try:  # loading takes a moment, in which an interrupt is no traceback either
    from isthmus.cli.app import main
except KeyboardInterrupt:
    print("isthmus: interrupted before anything was done", file=sys.stderr)
    sys.exit(130)

__all__ = ["main"]
