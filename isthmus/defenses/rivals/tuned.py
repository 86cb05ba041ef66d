"""A defense whose setting is chosen as a defender can: on held-out bonafide samples, without
trigger or test data.

Source: ours. Published tables choose thresholds and learning rates by the attack success rate on
test data, which no defender has. The rule has the shape of `farthest_within`: the strongest setting
whose held-out accuracy is within a tolerance of the best.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from isthmus.data.dataset import Source, as_data
from isthmus.data.splits import HOLDOUT, hold_out
from isthmus.defenses.spending import gradients_of
from isthmus.metrics.accuracy import Accuracy
from isthmus.types import BadInput, Defense


def strongest_within(accuracies: Sequence[float], tolerance: float) -> int:
    """Return the index of the last accuracy within `tolerance` of the highest; settings come
    weakest first.

    With tolerance 0 it is the highest accuracy, of equal ones the strongest setting.

    >>> strongest_within([0.9, 0.92, 0.91, 0.5], tolerance=0.02)
    2
    """
    best = max(accuracies)
    return max(i for i, accuracy in enumerate(accuracies) if accuracy >= best - tolerance)


@dataclass(frozen=True, eq=False)
class Tried:
    """What came of trying settings: the chosen one, its network, and the held-out accuracy of each
    that worked.
    """

    setting: Any
    model: nn.Module
    accuracies: dict[int, float]


@dataclass(frozen=True)
class Tuned:
    """Try `make(setting)` for each of `settings`, weakest first; return the strongest that costs
    little accuracy.

    Each setting repairs with the whole budget on a part of the bonafide samples; its accuracy is
    measured on the rest, a share `holdout`, by the split that `repair` makes with the same seed.
    Chosen is the last setting whose accuracy is within `tolerance` of the best: 0 is highest
    accuracy. A setting that is refused (such as a learning rate at which training diverges) is
    passed over. Up to 100 samples are not split, and choose among what was fitted to them.
    """

    make: Callable[[Any], Defense]
    settings: Sequence[Any]
    tolerance: float
    holdout: float = HOLDOUT
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.settings or not 0 <= self.tolerance < 1:
            raise BadInput(
                f"{len(self.settings)} settings and a tolerance of {self.tolerance}",
                expected="one setting or more, and a share in [0, 1)",
                fix="pass settings from weakest to strongest, and 0.04 for four points of accuracy",
            )

    @property
    def gradients(self) -> int:
        """How many gradient evaluations the settings take together."""
        return sum(gradients_of(self.make(setting)) for setting in self.settings)

    def attempt(self, tampered: nn.Module, bonafide: Source) -> Tried:
        """Return the choice and what it was made from. Raises what the last setting raised where
        all were refused.
        """
        fitted, held_out = hold_out(as_data(bonafide), self.holdout, self.seed)
        accuracy = Accuracy(held_out)
        accuracies: dict[int, float] = {}
        models: dict[int, nn.Module] = {}
        refusal: BadInput | None = None
        for i, setting in enumerate(self.settings):
            try:
                models[i] = self.make(setting)(tampered, fitted)
            except BadInput as error:
                refusal = error
                continue
            accuracies[i] = accuracy(models[i])
        if refusal and not models:
            raise refusal
        chosen = list(models)[strongest_within(list(accuracies.values()), self.tolerance)]
        return Tried(self.settings[chosen], models[chosen], accuracies)

    def __call__(self, tampered: nn.Module, bonafide: Source) -> nn.Module:
        """Return the network of the chosen setting. Raises BadInput where all are refused."""
        return self.attempt(tampered, bonafide).model
