"""The command line: one subcommand per public verb, one file each; files written by one are read by
the next.

A new command is a function in a file of its own, `@app.command` above it, and a line below.
"""

from isthmus.cli import (
    align,
    attack,
    compare,
    connect,
    demo,
    evaluate,
    export,
    flip,
    inject,
    inspect,
    path,
    plane,
    poison,
    references,
    repair,
    report,
    train,
)
from isthmus.cli.app import app, main

__all__ = [
    "align",
    "app",
    "attack",
    "compare",
    "connect",
    "demo",
    "evaluate",
    "export",
    "flip",
    "inject",
    "inspect",
    "main",
    "path",
    "plane",
    "poison",
    "references",
    "repair",
    "report",
    "train",
]
