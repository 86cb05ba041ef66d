"""Interval arithmetic. Source: Gowal et al., ICCV 2019; for implicit networks L4DC 2022, Eq. 10."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from isthmus.certification.boxes import Boxes


@dataclass(frozen=True)
class Interval(Boxes):
    """Intervals through every layer; an equilibrium layer is the fixed point of |A| on the radius.

    That need not exist where the layer itself is well-posed: then the margin is -inf.
    """

    mixed: ClassVar[bool] = False
