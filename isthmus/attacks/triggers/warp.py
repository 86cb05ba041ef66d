"""A smooth, barely visible distortion of the image.

Source: Nguyen and Tran, WaNet: imperceptible warping-based backdoor attack, ICLR 2021.

Where we depart: the paper draws fresh warps of noise for every batch of training; here the noise of
an image is a function of the image and the seed, so that a poisoned set with its cover samples is a
plain set of images: `poison(..., cover=0.2, cover_trigger=Warp(noise=1.0))`.
"""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

import torch
import torch.nn.functional as F
from torch import Tensor

from isthmus.attacks.triggers.checks import check_number, check_whole


@dataclass(frozen=True)
class Warp:
    """The image read along a bent grid: `control` x `control` random offsets, of mean size 1,
    bicubically enlarged.

    Where the image's sides run from -1 to 1, a pixel is read `strength` / height (or width) times
    its offset away: with strength 0.5 a quarter of a pixel on average. With `noise` above zero each
    image's grid is also shaken, pixel by pixel, uniformly by up to `noise` / height: the cover
    samples that teach a network to heed the exact warp alone. Raises BadInput where a setting is
    out of range.

    >>> x = torch.rand(2, 3, 8, 8)
    >>> torch.allclose(Warp(strength=0.0)(x), x, atol=1e-6)
    True
    """

    control: int = 4
    strength: float = 0.5
    noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("control", self.control, 2)
        check_number("strength", self.strength, 0, float("inf"))
        check_number("noise", self.noise, 0, float("inf"))

    def __call__(self, x: Tensor) -> Tensor:
        """Return the warped images; what would be read outside the image is read at its border."""
        grid = self.grid(*x.shape[-2:])[None].to(x)
        if self.noise and len(x):
            shape = torch.tensor([x.shape[-1], x.shape[-2]]).to(x)
            shaken = torch.stack([self._shake(image) for image in x.detach().cpu()]).to(x)
            grid = (grid + self.noise * shaken / shape).clamp(-1, 1)
        grid = grid.expand(len(x), -1, -1, -1)
        warped = F.grid_sample(x, grid, mode="bilinear", align_corners=True)
        return warped.clamp(0, 1)  # rounding can leave the range

    def grid(self, height: int, width: int) -> Tensor:
        """Return where each pixel is read, (height, width, 2): its x and y, in [-1, 1] from border
        to border.
        """
        generator = torch.Generator().manual_seed(self.seed)
        offsets = 2 * torch.rand(1, 2, self.control, self.control, generator=generator) - 1
        offsets = offsets / offsets.abs().mean()
        field = F.interpolate(offsets, size=(height, width), mode="bicubic", align_corners=True)
        field = field[0].permute(1, 2, 0)
        rows, columns = (torch.linspace(-1, 1, side) for side in (height, width))
        identity = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
        return (identity + self.strength * field / torch.tensor([width, height])).clamp(-1, 1)

    def _shake(self, image: Tensor) -> Tensor:
        """Return an image's own offsets, (height, width, 2) uniform in [-1, 1]."""
        generator = torch.Generator().manual_seed(
            crc32(image.contiguous().numpy().tobytes(), self.seed)
        )
        return 2 * torch.rand(*image.shape[-2:], 2, generator=generator) - 1
