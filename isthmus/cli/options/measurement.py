"""What is measured at every point of a path or a plane."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cyclopts import Parameter

from isthmus.cli.options.evaluation import EvaluationOptions
from isthmus.cli.options.evasion import Evasion
from isthmus.cli.options.landscape import LandscapeOptions

if TYPE_CHECKING:
    from isthmus.attacks import PGD
    from isthmus.data import Data
    from isthmus.evidence import Judge


@Parameter(name="*")
@dataclass(frozen=True)
class Measurement:
    """What is measured at every point of a path or a plane."""

    evaluation: EvaluationOptions = EvaluationOptions()
    evasion: Evasion = Evasion()
    landscape: LandscapeOptions = LandscapeOptions()

    def check(self) -> None:
        """Raise BadInput if options exclude each other, before anything is read."""
        self.evaluation.check()
        self.landscape.check()

    def landscape_attack(self, samples: Data) -> PGD | None:
        """Return the attack of the landscape, None without one.

        Raises BadInput as `LandscapeOptions.attack` does.
        """
        return self.landscape.attack(self.evasion, samples)

    def judge(self, samples: Data) -> Judge:
        """Return the judge with the attack of --attack.

        Raises BadInput as `EvaluationOptions` and `Evasion` do.
        """
        judge = self.evaluation.judge(samples)
        attack = self.evasion.chosen(samples, landscape=self.landscape.landscape)
        return replace(judge, attack=attack)
