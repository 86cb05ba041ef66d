"""Global magnitude: the largest weights of the whole network stay, and are trained on.

Source: Han et al., NeurIPS 2015, with one threshold for all layers; but each layer keeps its
largest. At equal gradients it is level with rewiring and with learned scores and failed in no seed
(docs/results/pruning.md), so it is the default: measured with `dense=0.5` from random weights, not
on trained networks, for which the default takes no dense steps.
"""

from __future__ import annotations

from dataclasses import dataclass

from isthmus.compression.pruning.job import PruningJob, steps_for
from isthmus.training.options import require_numbers
from isthmus.types import BadInput


@dataclass(frozen=True)
class Magnitude:
    """Keep the largest; see the module. `dense` is the share of the budget spent before that.

    For a trained network it is 0; one half suits a network with random weights. Raises BadInput
    where `dense` is not in [0, 1).
    """

    dense: float = 0.0

    def __post_init__(self) -> None:
        require_numbers(self, "dense")
        if not 0 <= self.dense < 1:
            raise BadInput(
                f"dense = {self.dense:g}", expected="a share in [0, 1)", fix="pass dense=0.5"
            )

    @property
    def least_steps(self) -> int:
        """None without dense training."""
        return steps_for(self.dense) if self.dense else 0

    def __call__(self, job: PruningJob) -> None:
        """Train densely, prune, train what stays."""
        before = round(self.dense * job.steps)
        job.train("dense training", before)
        job.units.keep_largest(job.units.magnitudes(), job.target)
        job.train(steps=job.steps - before)
