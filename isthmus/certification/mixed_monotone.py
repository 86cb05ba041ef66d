"""Mixed monotone contraction. Source: Jafarpour, Abate, Davydov, Bullo, Coogan, L4DC 2022."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from isthmus.certification.boxes import Boxes
from isthmus.models.zoo.implicit import Equilibrium
from isthmus.types import BadInput

_FEED_FORWARD = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ReLU, nn.Flatten, nn.Identity)


@dataclass(frozen=True)
class MixedMonotone(Boxes):
    """The embedded network of an implicit network, with the relative classifier (MM-C) or, with
    relative=False, without (MM).

    It converges wherever the layer is well-posed. A feed-forward ReLU network is the case of a
    block-triangular A, for which it is interval arithmetic with the relative classifier.
    """

    mixed: ClassVar[bool] = True

    def check(self, model: nn.Module) -> None:
        """Raise BadInput where the network has no equilibrium layer and is no ReLU network."""
        leaves = [part for part in model.modules() if not list(part.children())]
        if any(isinstance(part, Equilibrium) for part in model.modules()):
            return
        other = [part for part in leaves if not isinstance(part, _FEED_FORWARD)]
        if other or not any(isinstance(part, nn.ReLU) for part in leaves):
            names = sorted({type(part).__name__ for part in other}) or ["no ReLU"]
            raise BadInput(
                f"a network without equilibrium layers ({', '.join(names)})",
                expected="an implicit network, or linear, convolution and ReLU layers alone",
                fix="certify it with Interval",
            )
