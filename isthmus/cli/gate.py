"""What a pipeline reads: a record as JSON, a JUnit file, an exit status for pass or fail."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path as File
from typing import Annotated, Any

from cyclopts import Parameter

from isthmus import runs
from isthmus.cli import checks
from isthmus.runs.imports import of_extra

FAILED = 1
"""The exit status of a command whose network did not pass."""


@dataclass(frozen=True)
class Check:
    """A requirement of a network, whether it holds, and what was seen."""

    name: str
    passed: bool
    seen: str


@Parameter(name="*")
@dataclass(frozen=True)
class Pipeline:
    """What a pipeline gets.

    :param json: Print the record as JSON on standard output, and all else on standard error.
    :param junit: A new file for the outcome as JUnit XML, which build servers show.
    """

    json: bool = False
    junit: Annotated[File | None, Parameter(validator=checks.new)] = None

    @contextmanager
    def words(self) -> Iterator[None]:
        """Run a block whose words go to standard error where standard output is for JSON."""
        if self.junit is not None:
            _junit_library()
        if not self.json:
            yield
            return
        with redirect_stdout(sys.stderr):
            yield

    def deliver(self, command: str, record: Mapping[str, Any], gate: Check | None) -> None:
        """Write what was asked for; leave with status 1 where the gate is not passed."""
        outcome = None if gate is None else vars(gate)
        if self.json:
            print(json.dumps({"command": command, **record, "gate": outcome}, allow_nan=False))
        if self.junit is not None:
            shown = gate or Check(command, True, "no gate was set")
            runs.write_text(self.junit, _junit(command, shown))
        if gate is not None and not gate.passed:
            print(f"isthmus: {gate.name}: not passed, {gate.seen}", file=sys.stderr)
            raise SystemExit(FAILED)


def _junit_library() -> Any:
    """Return junitparser. Raises BadInput where it is not installed."""
    return of_extra("junitparser", "ci", "--junit")


def _junit(command: str, gate: Check) -> str:
    """Return one check as JUnit XML."""
    library = _junit_library()
    case = library.TestCase(gate.name, classname=f"isthmus.{command}")
    if not gate.passed:
        case.result = [library.Failure(gate.seen)]
    suite = library.TestSuite(f"isthmus {command}")
    suite.add_testcase(case)
    report = library.JUnitXml()
    report.add_testsuite(suite)
    return str(report.tostring().decode())
