"""An attack on a float64 copy of the network: what rounding hides in float32 is visible there.

Whether a sample is fooled is measured elsewhere, on the network itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from isthmus.attacks.inputs.health.otherwise import Otherwise
from isthmus.models.view import copied


@dataclass(frozen=True)
class InFloat64(Otherwise):
    """Runs an attack on a copy of the network in float64, and returns its points in the type of x.

    For logits that carry a constant or a scale beside which float32 rounds their differences away,
    and for probabilities that saturate. Takes twice the memory, and several times as long on
    accelerators.

    >>> import torch
    >>> from isthmus.attacks import PGD
    >>> from isthmus.data import Linf
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> x, y = torch.full((2, 1, 2, 2), 0.5), torch.tensor([0, 1])
    >>> InFloat64(PGD(Linf(0.1)))(net, x, y).dtype
    torch.float32
    """

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the attacked inputs, of the shape, type and device of x."""
        moved: Tensor = self.attack(copied(model).double(), x.double(), y)
        return moved.to(x.dtype).clamp(0, 1)
