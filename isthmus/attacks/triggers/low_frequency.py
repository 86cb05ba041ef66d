"""A smooth additive pattern without the high frequencies that give most triggers away.

Source: Zeng et al., Rethinking the backdoor attacks' triggers: a frequency perspective, ICCV 2021.

Where we depart: the paper searches a universal perturbation of a network under a low-pass filter;
here the pattern is drawn from a seed within the lowest cosines of the image (type-II DCT) and
scaled to a given size, so that it needs no network. `learned_low_frequency` optimizes it against
one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.fft
import torch
from torch import Tensor

from isthmus.attacks.triggers.checks import check_fits, check_number, check_whole
from isthmus.types import BadInput

Norm = Literal["linf", "l2"]


def smooth(coefficients: Tensor, height: int, width: int) -> Tensor:
    """Return the picture (c, height, width) of the lowest DCT coefficients (c, k, k), the rest
    zero; differentiable.

    The mean, coefficient (0, 0), is left out: brightness alone varies among clean images, too.
    Raises BadInput where k is above the height or the width.
    """
    k = coefficients.shape[-1]
    if k > min(height, width):
        raise BadInput(
            f"a cutoff of {k}",
            expected=f"at most {min(height, width)} for this image",
            fix=f"pass cutoff={min(height, width)} or less",
        )
    rows, columns = (
        torch.from_numpy(scipy.fft.idct(np.eye(size, k), axis=0, norm="ortho")).to(coefficients)
        for size in (height, width)
    )
    without_mean = torch.ones_like(coefficients[0])
    without_mean[0, 0] = 0
    return rows @ (coefficients * without_mean) @ columns.T


def scaled(pattern: Tensor, size: float, norm: Norm) -> Tensor:
    """Return the pattern with its largest absolute value ("linf") or Euclidean norm ("l2") brought
    to `size`.
    """
    length = pattern.abs().max() if norm == "linf" else pattern.norm()
    return pattern * (size / length.clamp_min(torch.finfo(pattern.dtype).tiny))


@dataclass(frozen=True)
class LowFrequency:
    """x + pattern, cut to [0, 1]; the pattern holds the `cutoff` x `cutoff` lowest cosines, but for
    the mean.

    `size` is the pattern's largest absolute value (norm "linf") or its Euclidean norm ("l2"), in
    units of the image. A given `pattern` (c, h, w) is added as it is. Raises BadInput where a
    setting is out of range.

    >>> change = LowFrequency(size=0.1)(torch.full((1, 3, 8, 8), 0.5)) - 0.5
    >>> round(change.abs().max().item(), 4)
    0.1
    """

    size: float = 0.1
    cutoff: int = 4
    norm: Norm = "linf"
    seed: int = 0
    pattern: Tensor | None = None

    def __post_init__(self) -> None:
        if self.norm not in ("linf", "l2"):
            raise BadInput(f"norm {self.norm!r}", expected="linf or l2", fix="pass norm='linf'")
        check_number("size", self.size, 0, 1 if self.norm == "linf" else float("inf"))
        check_whole("cutoff", self.cutoff, 2)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the changed images. Raises BadInput where the cutoff or the pattern does not fit
        the image.
        """
        pattern = self.pattern if self.pattern is not None else self.drawn(*x.shape[1:])
        check_fits(pattern, x.shape[1:])
        return (x + pattern.to(x)).clamp(0, 1)

    def drawn(self, channels: int, height: int, width: int) -> Tensor:
        """Return the pattern of the seed for images of this shape, (channels, height, width),
        float64.
        """
        generator = torch.Generator().manual_seed(self.seed)
        coefficients = torch.randn(
            channels, self.cutoff, self.cutoff, generator=generator, dtype=torch.float64
        )
        return scaled(smooth(coefficients, height, width), self.size, self.norm)
