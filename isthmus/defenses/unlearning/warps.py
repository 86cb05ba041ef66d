"""Universal warps: one for each class, a smooth shift of pixels that turns almost any image toward
it.

A backdoor that answers a distortion of the image (WaNet) resembles no pattern that is added to it,
so no universal perturbation tells. The warp that turns images toward its class does: it moves
pixels by a tenth of what any other class needs.

Source: Nguyen and Tran, WaNet, ICLR 2021, for warps of a few control points; Xiao et al., Spatially
transformed adversarial examples, ICLR 2018, for a search by the gradient of where pixels are read.

Where we depart: warps are universal and targeted, see `search`; their size is bounded, and their
smoothness is that of few control points, instead of a penalty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isthmus.data.dataset import Data
from isthmus.defenses.unlearning.search import Assignment, Found, searched
from isthmus.training.budget import Training

CONTROL = 4
"""Control points of a warp, a side."""

STEP = 0.2
"""The length of a step, in radii."""

FIRST, LARGEST = 1 / 80, 1 / 8
"""The radius that the search starts at, and the largest one, as shares of the shorter side: a warp
of an eighth moves what is on the image elsewhere."""

FIRST_DRAW = 0.25
"""The size of the warp that the search starts from, in radii: without any no pixel is read between
others, where a gradient says where to."""

ENLARGED = 4.0
"""How many times as large as the smallest one that works a warp is unlearned."""


@dataclass(frozen=True, eq=False)
class UniversalWarps(Found):
    """Warps by class, `values` (1, classes, 2, CONTROL, CONTROL): how far to the right and down
    what is read at control points lies, in shares of the image's shorter side; and the root mean
    square that each needs, `radii` (1, classes).
    """

    @property
    def unlearning_radii(self) -> Tensor:
        """The radii to unlearn in, (1, classes): `ENLARGED` times that of each class, and the
        typical one at most.
        """
        return torch.minimum(ENLARGED * self.radii, self.typical_radii[:, None])


@dataclass(frozen=True, eq=False)
class FoundWarp:
    """A trigger that reads each pixel where a warp says; `shifts` (2, rows, columns) are those of
    control points, see `warped`.
    """

    shifts: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Return the warped images (n, c, h, w)."""
        return warped(x, self.shifts.to(x.device)[None].expand(len(x), -1, -1, -1))


def warped(x: Tensor, shifts: Tensor) -> Tensor:
    """Return images x (n, c, h, w), each pixel read where its warp says, within [0, 1], in x's
    memory layout.

    `shifts` (n, 2, rows, columns) are those of control points, to the right and down, in shares of
    the shorter side; between them they are bicubic. What lies outside is read at the border.

    >>> x = torch.arange(4.0).expand(1, 1, 4, 4) / 4
    >>> right = torch.tensor([0.25, 0.0]).view(1, 2, 1, 1).expand(1, 2, 4, 4)
    >>> warped(x, right)[0, 0, 0].tolist()
    [0.25, 0.5, 0.75, 0.75]
    """
    height, width = x.shape[-2:]
    pixels = min(height, width) * shifts.float()
    down_sides, across_sides = (_bicubic(shifts.shape[2], height), _bicubic(shifts.shape[3], width))
    across, down = (down_sides.to(x.device) @ pixels @ across_sides.to(x.device).T).unbind(1)
    columns = torch.arange(width, device=x.device) + across
    rows = torch.arange(height, device=x.device)[:, None] + down
    read = [2 * columns / max(1, width - 1) - 1, 2 * rows / max(1, height - 1) - 1]
    at = torch.stack(read, dim=-1).to(x.dtype)
    moved = F.grid_sample(x, at, padding_mode="border", align_corners=True)
    return torch.empty_like(x).copy_(moved.clamp(0, 1))


def _bicubic(control: int, side: int) -> Tensor:
    """Return the matrix (side, control) that interpolates control points: its gradient is the same
    each time on a GPU, where that of `F.interpolate` is not.
    """
    points = torch.eye(control)[None, :, :, None]
    return F.interpolate(points, size=(side, 1), mode="bicubic", align_corners=True)[0, :, :, 0].T


@dataclass(frozen=True)
class Warps:
    """Warps as a family of changes; see `search.Family`."""

    kinds: ClassVar[int] = 1
    spoken: ClassVar[str] = "universal warps"

    def started(self, classes: int, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """Return small warps, drawn alike each time, and the radii of the first step."""
        draw = torch.Generator().manual_seed(0)
        values = torch.randn(1, classes, 2, CONTROL, CONTROL, generator=draw)
        return FIRST_DRAW * FIRST * values, torch.full((1, classes), FIRST)

    def applied(self, x: Tensor, values: Tensor, sent: Assignment) -> Tensor:
        """Return samples x (n, c, h, w), warped."""
        return warped(x, values[sent.kind, sent.toward])

    @torch.no_grad()
    def stepped(self, values: Tensor, gradient: Tensor, radii: Tensor) -> Tensor:
        """Return the warps after a step of STEP radii against the gradient, within the radii; those
        without a gradient stay where they are.
        """
        wide = radii[..., None, None, None]
        slope = gradient / _sizes(gradient).clamp_min(torch.finfo(gradient.dtype).tiny)
        ahead = values - STEP * wide * slope
        return ahead * (wide / _sizes(ahead).clamp_min(torch.finfo(ahead.dtype).tiny)).clamp(max=1)

    def grown(self, radii: Tensor, factor: Tensor) -> Tensor:
        """Return radii times a factor, LARGEST at most."""
        return (radii * factor).clamp(max=LARGEST)

    def moved(self, values: Tensor) -> bool:
        """Return whether any warp is another than the one that a search starts from."""
        first, _ = self.started(values.shape[1], torch.Size())
        return not torch.equal(values.cpu(), first)


WARPS = Warps()


def _sizes(values: Tensor) -> Tensor:
    """Return the root mean square of each warp (..., 2, rows, columns), with its dimensions."""
    return values.square().mean((-3, -2, -1), keepdim=True).sqrt()


def universal_warps(
    network: nn.Module, bonafide: Data, training: Training, *, share: float = 0.9
) -> UniversalWarps:
    """Return for each class a warp that turns about `share` of the other classes' samples to it, as
    small as that takes, and an eighth of the image at most.

    `searched` says what the training stands for, what is noticed and what is raised.
    """
    return UniversalWarps(*searched(network, bonafide, training, WARPS, share=share))
