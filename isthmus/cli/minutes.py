"""`--minutes`: how much of a command's work fits into the time that it is given.

The pace of the network is measured before the work and decides how many steps, points or samples
are taken; the number is kept with the run, so that a resumed one takes the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path as File
from typing import Annotated

from cyclopts import Parameter

from isthmus import runs
from isthmus.cli import checks
from isthmus.cli.estimate import Pace, Part
from isthmus.types import BadInput


@Parameter(name="*")
@dataclass(frozen=True)
class TimeLimit:
    """How long a command may take.

    :param minutes: Do what fits into this time. The network is timed first, which decides how many
        steps, points or samples that is; a run that is resumed keeps that number.
    """

    minutes: Annotated[float | None, Parameter(validator=checks.finite)] = None

    def check(self, option: str = "", *, given: bool = False) -> None:
        """Raise BadInput where the time is none, or the option that it decides is `given` too."""
        if self.minutes is None:
            return
        if self.minutes <= 0:
            raise BadInput(
                f"--minutes {self.minutes:g}", expected="a time above zero", fix="write 10"
            )
        if given:
            raise BadInput(
                f"--minutes and {option}",
                expected="one of them",
                fix="the time decides the number, or you do",
            )

    def amount(
        self,
        name: str,
        pace: Pace,
        fixed: Sequence[Part],
        one: Part,
        *,
        share: float = 1.0,
        least: int = 1,
        most: int | None = None,
        file: File | None = None,
    ) -> int:
        """Return how many times `one` part of the work fits beside the `fixed` ones into a share of
        the time, at most `most`, and remember it in the file under its name.

        To be called where minutes are given. Raises BadInput where fewer than `least` fit.
        """
        assert self.minutes is not None
        seconds = 60 * self.minutes * share
        beside = sum(pace.seconds(part) for part in fixed)
        single = max(pace.seconds(one), 1e-9)

        def decide() -> int:
            count = max(0, int((seconds - beside) / single))
            if count < least:
                needed = ceil((beside + least * single) / share / 6) / 10
                raise BadInput(
                    f"--minutes {self.minutes:g}, in which {count} {name} fit",
                    expected=f"time for {least} or more",
                    fix=f"pass --minutes {needed:g}",
                )
            return count if most is None else min(count, most)

        return runs.decided(file, f"{name} in {self.minutes:g} minutes", decide)

    def words(self, name: str, count: int, most: int | None = None) -> str:
        """Return what the time decided, as the end of a line; nothing without minutes.

        >>> TimeLimit(5.0).words("steps", 120, 200), TimeLimit().words("steps", 200)
        ('; --minutes 5 allows 120 of 200 steps', '')
        """
        if self.minutes is None:
            return ""
        whole = "" if most is None else f" of {most:,}"
        return f"; --minutes {self.minutes:g} allows {count:,}{whole} {name}"
