"""Robustness and curvature along a path or on a plane."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cyclopts import Parameter

from isthmus import attacks
from isthmus.cli.options.threat import Threat
from isthmus.cli.options.values import Whole
from isthmus.types import BadInput

if TYPE_CHECKING:
    from isthmus.attacks import PGD
    from isthmus.data import Data


@Parameter(name="*")
@dataclass(frozen=True)
class LandscapeOptions:
    """Robustness and curvature along a path or on a plane.

    :param landscape: Measure them too: loss under PGD within --eps, input-Hessian, gradient norms,
        and which of them go together.
    :param landscape_samples: Measure them on the first samples, this many; by default 500.
    """

    landscape: bool = False
    landscape_samples: Whole | None = None

    def check(self) -> None:
        """Raise BadInput if there are samples without a landscape, or no samples."""
        if self.landscape_samples is not None and not self.landscape:
            raise BadInput(
                "--landscape-samples",
                expected="--landscape",
                fix="pass --landscape, or neither",
            )
        if self.samples < 1:
            raise BadInput(
                f"--landscape-samples {self.samples}",
                expected="1 or more",
                fix="leave it out for 500",
            )

    @property
    def samples(self) -> int:
        """How many samples are measured."""
        return 500 if self.landscape_samples is None else self.landscape_samples

    def attack(self, threat: Threat, samples: Data) -> PGD | None:
        """Return PGD in the ball of the threat; None without a landscape.

        Raises BadInput as `check` does, and for several norms.
        """
        self.check()
        if not self.landscape:
            return None
        balls = threat.balls(samples)
        if len(balls) > 1:
            raise BadInput(
                f"--norm {threat.norm} for a landscape",
                expected="one norm",
                fix="measure one at a time",
            )
        steps = 10 if threat.attack_steps is None else threat.attack_steps
        return attacks.PGD(balls[0], steps=steps, returns="worst")
