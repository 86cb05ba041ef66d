"""The command line run in this process, on networks of the digits."""

import contextlib
import io
import subprocess

from isthmus.cli import main

MODEL = "isthmus.models:small_cnn,channels=1,width=8"


TRIGGER = ("--trigger", "Patch(size=2)", "--target", 1)


FAST = ("--steps", 20, "--lr", 0.05)


CLEAN = ("--model", MODEL, "--clean", "digits:test#n=200")
"""The network that a command reads, and trusted images for it."""


def isthmus(*arguments, folder):
    """Run the command line from a folder, in this process; return its status, standard output and
    standard error.
    """
    out, error, status = io.StringIO(), io.StringIO(), 0
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(error),
    ):
        try:
            main([str(each) for each in arguments])
        except SystemExit as end:
            status = end.code
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), error.getvalue())


def done(folder, *arguments):
    """What a command prints that succeeds."""
    found = isthmus(*arguments, folder=folder)
    assert found.returncode == 0, found.stderr
    return found.stdout


def refused(folder, *arguments):
    """The one line that a refused command prints."""
    found = isthmus(*arguments, folder=folder)
    assert found.returncode == 2, (found.returncode, found.stdout, found.stderr)
    assert found.stderr.startswith("isthmus: got ") and found.stderr.count("\n") == 1, found.stderr
    assert "expected" in found.stderr
    return found.stderr
