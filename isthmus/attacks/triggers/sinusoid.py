"""Faint vertical stripes: a horizontal sinusoid added to every row.

Source: Barni et al., A new backdoor attack in CNNs by training set corruption without label
poisoning, ICIP 2019 (SIG): v(i, j) = delta sin(2 pi j f / width), f = 6. Its poisoned set keeps its
labels: `poison(clean_label=True)`.

Where we depart: delta is 40/255 by default, as in later comparisons, where the paper has 20/255;
columns count from 0, which moves the stripes by one pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor

from isthmus.attacks.triggers.checks import check_number, check_whole
from isthmus.types import BadInput


@dataclass(frozen=True)
class Sinusoid:
    """x + delta sin(2 pi j frequency / width) in column j, cut to [0, 1]; delta in units of the
    image, 40/255 here.

    Raises BadInput where delta is not in [0, 1] or the frequency is no whole number above zero.

    >>> striped = Sinusoid(delta=0.5, frequency=1)(torch.full((1, 1, 1, 4), 0.5))
    >>> striped.round(decimals=3).flatten().tolist()
    [0.5, 1.0, 0.5, 0.0]
    """

    delta: float = 40 / 255
    frequency: int = 6

    def __post_init__(self) -> None:
        check_number("delta", self.delta, 0, 1)
        check_whole("frequency", self.frequency)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the striped images. Raises BadInput where the sinusoid is zero at every pixel of
        this width.
        """
        width = x.shape[-1]
        if 2 * self.frequency % width == 0:
            raise BadInput(
                f"{self.frequency} periods over {width} pixels",
                expected="a sinusoid that is not zero at every pixel",
                fix=f"choose a frequency below {width / 2:g}",
            )
        column = torch.arange(width, dtype=torch.float64)
        stripes = self.delta * torch.sin(2 * pi * self.frequency * column / width)
        return (x + stripes.to(x)).clamp(0, 1)
