"""Clean and adversarial cross-entropy in one loss, with a weight for each."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from torch import Tensor, nn

from isthmus.training.losses import cross_entropy, for_training, gradients_per_step
from isthmus.types import Attack, BadInput


@dataclass(frozen=True)
class TradeOff:
    """The loss `clean` CE(f(x), y) + `attacked` CE(f(x_adv), y). See `trade_off`."""

    attack: Attack
    clean: float
    attacked: float

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss; no gradient passes through the attack."""
        moved = self.attack(model, x, y).detach()
        plain = self.clean * cross_entropy(model, x, y) if self.clean else 0.0
        return plain + self.attacked * cross_entropy(model, moved, y)

    @property
    def gradients(self) -> int:
        """How many gradients a step takes."""
        return gradients_per_step(self.attack) + (2 if self.clean else 1)


def trade_off(attack: Attack, clean: float = 0.5, attacked: float = 0.5) -> TradeOff:
    """Return the loss on clean and on attacked inputs together, each with its weight.

    One half each is the hybrid loss of rewiring (Kundu et al., 2021); 1 and 8 are the weights of Li
    et al., arXiv 2008.13305; 0 and 1 are adversarial training. Raises BadInput where a weight is
    negative, or that of the attacked inputs is 0.
    """
    if not (0 <= clean < inf and 0 < attacked < inf):
        raise BadInput(
            f"weights {clean:g} and {attacked:g}",
            expected="0 or more for clean inputs, and above 0 for attacked ones",
            fix="pass clean=0.5, attacked=0.5",
        )
    return TradeOff(for_training(attack), clean, attacked)
