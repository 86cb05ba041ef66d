"""Images of a record: small PNG files in base64, which a page shows without asking for any file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from matplotlib.image import imsave
from torch import Tensor

from isthmus.types import Trigger

LARGEST = 64
"""Pixels beyond which an image is made smaller, so that a page stays small."""

RULED = 4
"""Pixels from one line to the next on an image that shows a warp, which a plain one does not."""


def png(image: Tensor) -> str:
    """Return an image (c, h, w) of floats in [0, 1] as a PNG file in base64.

    Three channels are red, green and blue; of any other number the mean is shown in gray.
    """
    colors = image.detach().float().cpu()
    if len(colors) != 3:
        colors = colors.mean(0, keepdim=True).expand(3, -1, -1)
    height, width = colors.shape[1:]
    share = LARGEST / max(height, width)
    if share < 1:
        size = (max(1, round(share * height)), max(1, round(share * width)))
        colors = F.interpolate(colors[None], size, mode="area")[0]
    buffer = io.BytesIO()
    metadata = {"Software": ""}  # the same image, the same file
    imsave(buffer, colors.clamp(0, 1).permute(1, 2, 0).numpy(), format="png", metadata=metadata)
    return base64.b64encode(buffer.getvalue()).decode()


def picture_of(trigger: Trigger, shape: Sequence[int], *, ruled: bool = False) -> str:
    """Return what a trigger does to a gray image of the shape (c, h, w), with lines on it where it
    is `ruled`, as a PNG file in base64.
    """
    image = torch.full((1, *shape), 0.5)
    if ruled:
        image[..., ::RULED, :] = image[..., ::RULED] = 1.0
    return png(trigger(image)[0])
