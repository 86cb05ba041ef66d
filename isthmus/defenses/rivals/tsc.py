"""TSC: out along a curve to the least correlated permuted self, and back along a second one, in
rounds.

Source: Peng et al., Circumventing Backdoor Space via Weight Symmetry, ICML 2025: three rounds,
t = 0.4, fine-tuning between rounds at a learning rate of 1e-4 for a twentieth of a curve's budget.

Where we depart: the channels that may be permuted come from following a run, so any network will do
whose run can be followed; the budget is that of every other defense (the paper spends some
12,000 steps on 2,500 samples).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from isthmus.curves.curve import Bezier
from isthmus.curves.expectation import expected_over_t
from isthmus.data.dataset import Data, Source, as_data
from isthmus.defenses.spending import Trained
from isthmus.models.batchnorm import recalibrate
from isthmus.models.channels.matching import align, permuted_copy
from isthmus.models.view import copied
from isthmus.training.loop import fit
from isthmus.training.losses import cross_entropy
from isthmus.types import BadInput

TUNING_LR = 1e-4
"""Learning rate of the fine-tuning between rounds."""

TUNING_SHARE = 20
"""How many times the steps of a fine-tuning a curve gets."""


@dataclass(frozen=True)
class TSC(Trained):
    """Two curves a round: to the permuted copy that behaves least alike, and from there to the copy
    most alike.

    `t` is the point taken of every curve. `training.lr` is the curves'. A step costs one
    gradient evaluation.
    """

    t: float = 0.4
    rounds: int = 3

    def __call__(self, tampered: nn.Module, bonafide: Source) -> nn.Module:
        """Return the network at the end of the last round, in eval mode.

        Raises BadInput where t is not inside (0, 1), the budget is below one step for each curve,
        or nothing in the network can be permuted.
        """
        if not 0 < self.t < 1 or self.rounds < 1:
            raise BadInput(
                f"t = {self.t:g}, rounds = {self.rounds}",
                expected="0 < t < 1 and a round or more",
                fix="pass t=0.4, rounds=3",
            )
        curve, tuning = self._budget()
        net = copied(tampered).eval()
        data = as_data(bonafide)
        for round_ in range(self.rounds):
            middle = self._midway(net, permuted_copy(net, data).model, data, curve)
            net = self._midway(align(middle, net, data).model, middle, data, curve)
            if tuning and round_ < self.rounds - 1:
                between = self.training.replace(steps=tuning, lr=TUNING_LR)
                fit(net, data, training=between, progress="fine-tuning")
        return recalibrate(net, data)

    def _budget(self) -> tuple[int, int]:
        """Return the steps of a curve and of a fine-tuning between rounds; what does not divide is
        left unspent.
        """
        steps = self.training.steps
        curve = TUNING_SHARE * steps // (2 * TUNING_SHARE * self.rounds + self.rounds - 1)
        if curve < 1:
            raise BadInput(
                f"a budget of {steps} gradient evaluations",
                expected=f"{2 * self.rounds} or more: one for each curve",
                fix="raise steps, or ask for fewer rounds",
            )
        return curve, curve // TUNING_SHARE

    def _midway(self, start: nn.Module, end: nn.Module, data: Data, steps: int) -> nn.Module:
        """Return the network at t of a curve between the two, trained on the data."""
        curve = Bezier(start, end)
        loss = expected_over_t(cross_entropy, self.training.weight_decay)
        training = self.training.replace(steps=steps, weight_decay=0.0)
        fit(curve, data, loss, training=training, progress="connecting")
        return recalibrate(curve.export(self.t), data)
