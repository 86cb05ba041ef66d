"""Universal perturbations: one for each class, that turns almost any image toward it.

A backdoor is such a perturbation, and a small one: the radius that its class needs is the smallest,
or near it.

How they are found says `search`. There are three kinds of them. Those that are small in l2 turn out
as fine noise, and a sinusoid over the whole image is nowhere near. So the second kind is smooth:
its gradients pass a low-pass filter. The third is sparse: small in l1, as patches are, which have
the l2 norm of any noise. A step of it moves the share of the values that tell most (Tramer and
Boneh, NeurIPS 2019, section 4).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isthmus.data.balls import L1, L2, Ball
from isthmus.data.dataset import Data
from isthmus.defenses.unlearning.search import Assignment, Found, searched
from isthmus.training.budget import Training

STEP = 0.1
"""The length of a step, in radii."""

FIRST_CHANGE = 0.01
"""The search starts at the radius of an image that is changed by this much everywhere."""

GRID = 16
"""The finest grid, in cells a side, that smooth perturbations are drawn on."""

LARGEST = 4.0
"""How many times as large as usual what is made for an odd class is at most."""

ODD = 0.5
"""How much smaller than typical an odd perturbation's radius is, as a logarithm: six tenths of the
median over classes. The target's is at 0.6 to 1.3 on a well-trained network with a patch, the
smallest of any class at 0.1 to 0.5 on small networks whose patch they do not find."""


VERY_ODD = 0.9
"""The same where a sparse perturbation alone is odd, as that of most patches on networks that do
not fit their data: 1.0 to 1.8, on clean networks 0.4 to 1.3 (docs/experiments.md)."""

SURE = 1.5
"""How odd a perturbation is that leaves no doubt of its class: 1.8 to 9 where a patch or a blend
leads there, 1.3 at most to other classes and on clean networks (docs/experiments.md)."""


RECOGNIZABLE = 0.25
"""The change everywhere, as a share of the range of values, beyond which an image is not itself."""


@dataclass(frozen=True)
class Kind:
    """A kind of perturbations: the unit ball of the norm that they are small in, and the filter
    that their gradients (n, c, h, w) pass, if any.
    """

    ball: Ball
    filter: Callable[[Tensor], Tensor] | None = None


def smooth(images: Tensor) -> Tensor:
    """Return images (n, c, h, w) as they look on a grid of half their size, of at most GRID cells
    a side.
    """
    height, width = images.shape[-2:]
    rows, columns = (max(1, min(GRID, side // 2)) for side in (height, width))
    coarse = F.adaptive_avg_pool2d(images, (rows, columns))
    return F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)


FINE, SMOOTH, SPARSE = Kind(L2(1.0)), Kind(L2(1.0), smooth), Kind(L1(1.0, share=0.02))
PERTURBATION_KINDS = (FINE, SMOOTH, SPARSE)


@dataclass(frozen=True, eq=False)
class UniversalPerturbations(Found):
    """Perturbations by kind and class, `values` (kinds, classes, c, h, w), and the radius that each
    needs, `radii` (kinds, classes): a norm of the kind over an image's values in [0, 1].
    """

    @property
    def told(self) -> Tensor:
        """The oddness of those that leave images recognizable, (kinds, classes); 0 for the others:
        of balls that have grown without end one is odd by chance.
        """
        _, everywhere = PERTURBATIONS.started(1, self.values.shape[2:])
        fits = self.radii.cpu() <= RECOGNIZABLE / FIRST_CHANGE * everywhere
        return torch.where(fits, self.oddness.cpu(), 0.0)

    @property
    def suspects(self) -> list[int]:
        """The classes whose oddest perturbation leaves no doubt, or else the oddest one."""
        oddest = self.told.amax(dim=0)
        sure = (oddest >= SURE).nonzero()[:, 0].tolist()
        return sure or [int(oddest.argmax())]

    @property
    def telling(self) -> list[tuple[int, int]]:
        """Kind and class of those toward the suspect classes that are odd; none where all but the
        sparse ones are usual. Along a curve those alone are lost before the patch that they stand
        in for: docs/experiments.md.
        """
        places = [(i, c) for c in self.suspects for i in range(len(PERTURBATION_KINDS))]
        odd = [place for place in places if self.told[place] >= ODD]
        return odd if any(PERTURBATION_KINDS[kind] is not SPARSE for kind, _ in odd) else []

    @property
    def sparse_alone(self) -> list[tuple[int, int]]:
        """Kind and class of the sparse perturbations toward the suspect classes that are very odd,
        where the others toward them are usual.
        """
        if self.telling:
            return []
        kind = PERTURBATION_KINDS.index(SPARSE)
        return [(kind, c) for c in self.suspects if self.told[kind, c] >= VERY_ODD]

    @property
    def distinct(self) -> list[tuple[int, int]]:
        """Kind and class of those toward the oddest class that are odd, one of them beyond doubt;
        none where there are none.
        """
        told = self.told
        oddest = int(told.amax(dim=0).argmax())
        if told[:, oddest].max() < SURE:
            return []
        return [(i, oddest) for i in range(len(told)) if told[i, oddest] >= ODD]

    @property
    def unlearning_radii(self) -> Tensor:
        """The radii to unlearn in, (kinds, classes): the typical one, and for an odd class as many
        times as large as its own is smaller, `LARGEST` times at most.

        A class that a tiny perturbation reaches has a shortcut, and the trigger that made it may be
        many times as large: docs/experiments.md.
        """
        larger = torch.where(self.oddness >= ODD, self.oddness.exp(), 1.0).clamp(max=LARGEST)
        return self.typical_radii[:, None] * larger


@dataclass(frozen=True)
class Perturbations:
    """Perturbations as a family of changes; see `search.Family`."""

    kinds: ClassVar[int] = len(PERTURBATION_KINDS)
    spoken: ClassVar[str] = "universal perturbations"

    def started(self, classes: int, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """Return no perturbation, and the radii of an image that is changed by FIRST_CHANGE."""
        change = torch.full((classes, *shape), FIRST_CHANGE)
        radii = torch.stack([kind.ball.norm(change) for kind in PERTURBATION_KINDS])
        return torch.zeros(self.kinds, classes, *shape), radii

    def applied(self, x: Tensor, values: Tensor, sent: Assignment) -> Tensor:
        """Return samples x (n, c, h, w) with their perturbations, within [0, 1], in x's memory
        layout.
        """
        moved = x + values[sent.kind, sent.toward].to(x.dtype)
        return torch.empty_like(x).copy_(moved.clamp(0, 1))

    @torch.no_grad()
    def stepped(self, values: Tensor, gradient: Tensor, radii: Tensor) -> Tensor:
        """Return the perturbations after a step of STEP radii against the gradient, within the
        balls.

        Those without a gradient stay where they are.
        """
        moved = []
        each = zip(PERTURBATION_KINDS, values, gradient, radii, strict=True)
        for kind, now, slope, radius in each:
            wide = radius[:, None, None, None]
            downhill = slope if kind.filter is None else kind.filter(slope)
            ahead = now / wide - STEP * kind.ball.steepest(downhill)
            moved.append(wide * kind.ball.project(ahead))
        return torch.stack(moved)

    def grown(self, radii: Tensor, factor: Tensor) -> Tensor:
        """Return radii times a factor."""
        return radii * factor

    def moved(self, values: Tensor) -> bool:
        """Return whether any perturbation is not zero."""
        return bool(values.any())


PERTURBATIONS = Perturbations()


def lost_perturbations(
    network: nn.Module,
    beside: nn.Module,
    bonafide: Data,
    training: Training,
    *,
    share: float = 0.9,
) -> UniversalPerturbations:
    """Return for each class a perturbation that turns about `share` of the other classes' samples
    to it on the network, and not on the one `beside` it, in a ball as small as that takes.

    Where the second network is the first one after a small change, ordinary perturbations turn
    both; what turns the first alone is what the change has lost. Where there is no such thing, the
    ball grows without end. `searched` says what is noticed and what is raised.
    """
    found = searched(network, bonafide, training, PERTURBATIONS, share=share, beside=beside)
    return UniversalPerturbations(*found)


def universal_perturbations(
    network: nn.Module, bonafide: Data, training: Training, *, share: float = 0.9
) -> UniversalPerturbations:
    """Return for each class a perturbation that turns about `share` of the other classes' samples
    to it, in a ball as small as that takes.

    `searched` says what the training stands for, what is noticed and what is raised. Clean labels
    only say which samples are of another class.
    """
    return UniversalPerturbations(
        *searched(network, bonafide, training, PERTURBATIONS, share=share)
    )
