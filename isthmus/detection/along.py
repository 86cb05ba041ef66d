"""Detection as a question about one network, so that it can be put along a path."""

from __future__ import annotations

from dataclasses import dataclass

from isthmus.data.dataset import Data, Source, as_data
from isthmus.data.splits import check_disjoint
from isthmus.detection.detector import ManifoldDetector
from isthmus.metrics.area import Area
from isthmus.metrics.passes import Passes
from isthmus.metrics.question import Question
from isthmus.types import Attack


@dataclass(frozen=True, eq=False)
class DetectionArea(Question[Area]):
    """How well the network's own features tell changed samples from clean ones, as an Area.

    A detector is fitted to the reference in every network anew. `change` is an attack; a trigger
    is one that reads neither network nor labels. Raises BadInput where samples are among the
    reference, and as the detector does.
    """

    reference: Source
    change: Attack
    score: str = "lle"
    neighbors: int = 20
    layer: str | tuple[str, ...] | None = None

    def prepared(self, data: Data) -> Data:
        """Return the data. Raises BadInput where samples are among the reference."""
        check_disjoint(evaluation=data, reference=as_data(self.reference))
        return data

    @property
    def gradients(self) -> int:
        """How many gradients the attack costs a sample."""
        return self.change.gradients

    @property
    def basis(self) -> object:
        """The attack, which is run once."""
        return self.change

    def answer(self, passes: Passes) -> Area:
        """Return the area under the ROC curve of the network whose passes these are."""
        detector = ManifoldDetector(self.score, self.neighbors, self.layer)
        detector.fit(self.reference, passes.model)
        moved = passes.attacked(self.samples, self.change)
        return Area.of(detector.score(self.samples.x), detector.score(moved.x))
