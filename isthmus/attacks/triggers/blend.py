"""A fixed picture shining through the whole image.

Source: Chen et al., Targeted backdoor attacks on deep learning systems using data poisoning, 2017
(blended injection).

Where we depart: without a picture, the pattern is uniform noise drawn from a seed; alpha is 0.2, as
in later studies.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from isthmus.attacks.triggers.checks import check_fits, check_number


@dataclass(frozen=True)
class Blend:
    """A whole-image blend, (1 - alpha) x + alpha pattern; the pattern is uniform noise drawn once
    from `seed`.

    Raises BadInput where alpha is not in [0, 1].

    >>> x = torch.rand(2, 3, 8, 8)
    >>> bool((Blend(alpha=0.0)(x) == x).all())
    True
    """

    alpha: float = 0.2
    seed: int = 0
    pattern: Tensor | None = None

    def __post_init__(self) -> None:
        check_number("alpha", self.alpha, 0, 1)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the blended images. Raises BadInput where the pattern does not fit."""
        pattern = self.pattern
        if pattern is None:
            pattern = torch.rand(x.shape[1:], generator=torch.Generator().manual_seed(self.seed))
        check_fits(pattern, x.shape[1:])
        return torch.lerp(x, pattern.to(x), self.alpha)
