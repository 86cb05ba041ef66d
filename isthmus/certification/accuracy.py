"""Certified accuracy: a question about one network, so that it can be put along a path too."""

from __future__ import annotations

from dataclasses import dataclass

from isthmus.certification.certifier import Certifier
from isthmus.data.balls import Ball
from isthmus.metrics.passes import Passes
from isthmus.metrics.question import Question
from isthmus.metrics.values import Rate


@dataclass(frozen=True, eq=False)
class CertifiedAccuracy(Question[Rate]):
    """Share of samples that the network gets right and that the certifier proves right all over the
    ball, as a Rate.

    A lower bound of the accuracy under any attack in the ball; no attack is run. Raises BadInput
    as the certifier does.
    """

    certifier: Certifier
    ball: Ball

    def answer(self, passes: Passes) -> Rate:
        """Return the certified accuracy of the network whose passes these are."""
        y = self.samples.y
        right = passes.logits(self.samples).argmax(1) == y
        margins = self.certifier(passes.model, self.samples.floats(), y, self.ball)
        return Rate(int((right & (margins > 0)).sum()), len(y))
