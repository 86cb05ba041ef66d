"""A repair by a rule on held-out samples as a defense, at a given budget of gradients."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from isthmus.data.dataset import Source, as_data
from isthmus.defenses.curve_repair.averaged import few
from isthmus.defenses.curve_repair.on_curve import Budgeted
from isthmus.defenses.curve_repair.repair import repair, to_the_mean
from isthmus.defenses.curve_repair.rules import Rule


@dataclass(frozen=True)
class AlongPath(Budgeted):
    """`repair` with the signature and the budget of a defense.

    Where the samples object to the mean of two repairs, no curve follows, which would spend the
    budget twice: the rule goes back along the straight path."""

    rule: Rule | None = None

    def __call__(self, tampered: nn.Module, bonafide: Source) -> nn.Module:
        """Return the network that `repair` chooses. Raises BadInput as `repair` does."""
        data, options, plainly = as_data(bonafide), self.options(), AlongPath(self.training)
        if self == plainly and few(tampered, data):
            return to_the_mean(tampered, data, **options).model
        return repair(tampered, data, self.other, rule=self.rule, **self.shape(), **options).model
