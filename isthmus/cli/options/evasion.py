"""The attack that a network is measured under."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cyclopts import Parameter

from isthmus import attacks
from isthmus.cli import words
from isthmus.cli.options.threat import Threat
from isthmus.cli.options.values import Whole

if TYPE_CHECKING:
    from torch import nn

    from isthmus.data import Data
    from isthmus.types import Attack


@Parameter(name="*")
@dataclass(frozen=True)
class Evasion(Threat):
    """The attack that a network is measured under.

    :param attack: Measure the accuracy under this attack.
    :param restarts: How often the attack starts anew; by default once.
    :param straight_through: Layers without a useful gradient (rounding, JPEG, thresholds), by the
        names of their modules, as in "front,stem.quantize": the attack takes that of the identity.
    """

    attack: words.AttackName | None = None
    restarts: Whole | None = None
    straight_through: str | None = None

    def named(self, name: words.AttackName, samples: Data, seed: int = 0) -> Attack:
        """Return the attack of that name for such samples.

        Raises BadInput if an option does not apply to it.
        """
        attack = words.parse_attack(
            name, self.balls(samples), steps=self.attack_steps, restarts=self.restarts, seed=seed
        )
        if self.straight_through is None:
            return attack
        return attacks.BPDA(attack, self.layers)

    @property
    def layers(self) -> list[str]:
        """The names of the layers to pass straight through."""
        return [layer.strip() for layer in (self.straight_through or "").split(",") if layer]

    def check_layers(self, network: nn.Module) -> None:
        """Raise BadInput where the network has no such layers, before any work is done."""
        attacks.named_layers(network, self.layers)

    def chosen(self, samples: Data, *, landscape: bool = False) -> Attack | None:
        """Return the attack of --attack, None without one.

        Raises BadInput as `named` and `refuse_alone` do.
        """
        if self.attack is None:
            self.refuse_alone("name it: --attack pgd", landscape=landscape)
            return None
        return self.named(self.attack, samples)
