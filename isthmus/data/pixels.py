"""The pixels of one PIL image, whatever its mode: gray or RGB, 8 bits a channel."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from isthmus.types import BadInput

_GRAY, _PALETTE = ("L", "LA", "1"), ("P", "PA")


def is_gray(image: Any) -> bool:
    """Return whether a PIL image is read as gray: its mode tells, before it is decoded, or that all
    colors of its palette are gray.
    """
    if image.mode in _PALETTE:
        colors = np.array(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
        return bool((colors == colors[:, :1]).all())
    return image.mode in _GRAY


def pixels_of(image: Any, name: str = "") -> NDArray[np.uint8]:
    """Return a PIL image as (1, h, w) where it `is_gray`, else as RGB, (3, h, w), uint8.

    Palettes are looked up, other color spaces converted, transparency is left out. Raises BadInput
    where a channel has more than 8 bits.
    """
    if image.mode.startswith(("I", "F")):
        raise BadInput(
            f"{name}, an image of mode {image.mode}".removeprefix(", "),
            expected="8 bits a channel",
            fix="convert it first",
        )
    if is_gray(image):
        return np.asarray(image.convert("L"), dtype=np.uint8)[None]
    return np.asarray(image.convert("RGB"), dtype=np.uint8).transpose(2, 0, 1)
