"""What an attacker of inputs may do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from isthmus.cli import words
from isthmus.cli.options.values import Whole
from isthmus.types import BadInput

if TYPE_CHECKING:
    from isthmus.data import Ball, Data


@dataclass(frozen=True)
class Threat:
    """What an attacker of inputs may do.

    :param norm: linf, l2 or l1; several, such as "linf,l2,l1", for the worst of them. By default
        linf.
    :param eps: Radius in units of images in [0, 1], such as 8/255, one for each norm; by default
        8/255, 0.5 and 12.
    :param attack_steps: How many gradients, or queries, the attack takes; by default what its paper
        takes.
    """

    norm: str | None = None
    eps: str | None = None
    attack_steps: Whole | None = None

    def balls(self, samples: Data) -> tuple[Ball, ...]:
        """Return the balls for such samples. Raises BadInput if norm or radius do not fit them."""
        return words.parse_balls(self.norm, self.eps, samples.x.shape[1:])

    def refuse_alone(self, fix: str, *, landscape: bool = False) -> None:
        """Raise BadInput if an option describes an attack that nothing runs.

        A `landscape` runs one within --norm and --eps.
        """
        unused = ["restarts", "straight_through", "beta"]
        if not landscape:
            unused = ["norm", "eps", "attack_steps", *unused]
        for name in unused:
            if getattr(self, name, None) is not None:
                option = f"--{name.replace('_', '-')}"
                raise BadInput(f"{option} without an attack", expected="both or none", fix=fix)
