"""Universal perturbations: one for each class, that turns almost any image toward it.

A backdoor is such a perturbation, and a small one: the radius that its class needs is the smallest,
or near it.

Source: Moosavi-Dezfooli et al., Universal adversarial perturbations, CVPR 2017; Rony et al., DDN,
CVPR 2019, section 3, for a radius that shrinks where an attack succeeds and grows where it fails.

Where we depart: perturbations are targeted, one for each class and all at once, found by
normalized gradient steps on batches of bonafide samples. There are three kinds of them. Those that
are small in l2 turn out as fine noise, and a sinusoid over the whole image is nowhere near. So the
second kind is smooth: its gradients pass a low-pass filter. The third is sparse: small in l1, as
patches are, which have the l2 norm of any noise. A step of it moves the share of the values that
tell most (Tramer and Boneh, NeurIPS 2019, section 4).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isthmus.data.balls import L1, L2, Ball
from isthmus.data.dataset import Data
from isthmus.models.forward import (
    as_input,
    device_of,
    frozen,
    laid_out,
    placed,
    precise_logits,
)
from isthmus.models.memory import GradientPasses
from isthmus.models.recomputed import recomputed
from isthmus.runs.devices import autocast, pick_device
from isthmus.runs.notices import notice
from isthmus.training.batches import batch_indices
from isthmus.training.budget import Training
from isthmus.training.precision import training_precision
from isthmus.types import BadInput

STEP = 0.1
"""The length of a step, in radii."""

FIRST_CHANGE = 0.01
"""The search starts at the radius of an image that is changed by this much everywhere."""

GROWTH = 0.08
"""By which share a radius grows or shrinks in a step: eight times as large after 27 steps."""

FEW_STEPS = 27
"""Steps with a sample that a perturbation needs at least, on average: its radius moves once in each
of them, and an eightfold radius, from 1 % to 8 % everywhere, takes as many as this."""

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
class UniversalPerturbations:
    """Perturbations by kind and class, `values` (kinds, classes, c, h, w), and the radius that each
    needs, `radii` (kinds, classes): a norm of the kind over an image's values in [0, 1].
    """

    values: Tensor
    radii: Tensor

    @property
    def typical_radii(self) -> Tensor:
        """The median radius of each kind, (kinds,), which one odd class does not move; of an even
        number of classes the lower one.
        """
        return self.radii.median(dim=1).values

    @property
    def oddest(self) -> tuple[int, ...]:
        """The class of each kind whose perturbation needs the smallest radius."""
        return tuple(self.radii.argmin(dim=1).tolist())

    @property
    def oddness(self) -> Tensor:
        """How much smaller than typical each radius is, as a logarithm, (kinds, classes).

        Of two classes neither is odd: the smaller one is the median.
        """
        return (self.typical_radii[:, None] / self.radii).log()

    @property
    def suspect(self) -> int:
        """The class whose oddest perturbation is the oddest of all."""
        return int(self.oddness.amax(dim=0).argmax())

    @property
    def telling(self) -> list[tuple[int, int]]:
        """Kind and class of those toward the suspect class that are odd; none where all but the
        sparse one are usual. Along a curve that one alone is lost before the patch that it stands
        in for: docs/experiments.md.
        """
        suspect = self.suspect
        odd = [i for i in range(len(PERTURBATION_KINDS)) if self.oddness[i, suspect] >= ODD]
        if all(PERTURBATION_KINDS[i] is SPARSE for i in odd):
            return []
        return [(i, suspect) for i in odd]

    @property
    def sparse_alone(self) -> list[tuple[int, int]]:
        """Kind and class of the sparse perturbation toward the suspect class where it is very odd,
        and the others toward that class are usual.
        """
        kind, suspect = PERTURBATION_KINDS.index(SPARSE), self.suspect
        very = self.oddness[kind, suspect] >= VERY_ODD
        return [(kind, suspect)] if very and not self.telling else []

    @property
    def unlearning_radii(self) -> Tensor:
        """The radii to unlearn in, (kinds, classes): the typical one, and for an odd class as many
        times as large as its own is smaller, `LARGEST` times at most.

        A class that a tiny perturbation reaches has a shortcut, and the trigger that made it may be
        many times as large: docs/experiments.md.
        """
        larger = torch.where(self.oddness >= ODD, self.oddness.exp(), 1.0).clamp(max=LARGEST)
        return self.typical_radii[:, None] * larger


def universal_perturbations(
    network: nn.Module, bonafide: Data, training: Training, *, share: float = 0.9
) -> UniversalPerturbations:
    """Return for each class a perturbation that turns about `share` of the other classes' samples
    to it, in a ball as small as that takes.

    Each of `training.steps` takes one gradient; batches, augmentation, precision and seed are those
    of the training, and its rates do not count. The network is back on its own device afterward.
    Clean labels only say which samples are of another class. A notice says where a perturbation has
    a sample in fewer than FEW_STEPS steps. Where memory runs out, passes are halved. Raises
    BadInput where the share is not in (0, 1), there is one class, the network returns no logits, or
    one sample is too many.
    """
    if bonafide.num_classes < 2 or not 0 < share < 1:
        raise BadInput(
            f"{bonafide.num_classes} classes, share = {share:g}",
            expected="two classes or more, and a share in (0, 1)",
            fix="pass share=0.9",
        )
    _tell_of_few_steps(training, bonafide.num_classes)
    with placed(network, pick_device(training.device)):
        return _searched(network, bonafide, training, share)


def _searched(
    network: nn.Module, bonafide: Data, training: Training, share: float
) -> UniversalPerturbations:
    """Return the perturbations of a network, on the device that holds it."""
    device = device_of(network)
    classes, shape = bonafide.num_classes, bonafide.x.shape[1:]
    values = torch.zeros(len(PERTURBATION_KINDS), classes, *shape, device=device)
    change = torch.full((classes, *shape), FIRST_CHANGE, device=device)
    radii = torch.stack([kind.ball.norm(change) for kind in PERTURBATION_KINDS])
    passes = GradientPasses(training.microbatch)
    precision = training_precision(training, network, bonafide.x)
    with (
        frozen(network),
        recomputed(network, bonafide.x, training.recompute),
        laid_out(network, bonafide.x) as last,
        autocast(device, precision),
        torch.random.fork_rng(),
    ):
        torch.manual_seed(training.seed)
        for step in range(training.steps):
            index = batch_indices(len(bonafide), training.batch_size, step, training.seed)
            x = bonafide.x[index]
            if training.augment is not None:
                x = training.augment(x)
            x = as_input(x, device, channels_last=last)
            sent = Assignment.drawn(bonafide.y[index], classes).to(device)
            step_down = partial(descended, network, x, values, sent, radii)
            values, turned = passes.step(step_down, training.batch_size)
            radii = adapted(radii, turned, sent, share)
    return UniversalPerturbations(values, radii)


def _tell_of_few_steps(training: Training, classes: int) -> None:
    """Give notice of a search whose perturbations have a sample in fewer than FEW_STEPS steps."""
    count = len(PERTURBATION_KINDS) * classes
    without = (1 - 1 / count) ** training.batch_size
    each = training.steps * (1 - without)
    if each < FEW_STEPS:
        notice(
            f"each of {count:,} universal perturbations ({classes:,} classes) has a sample in "
            f"{each:.2g} of {training.steps:,} steps, and may need {FEW_STEPS}. A backdoor may be "
            "missed: more steps or a larger batch_size help"
        )


@dataclass(frozen=True, eq=False)
class Assignment:
    """Which perturbation each sample of a batch gets: its kind, (n,), and the class that it turns
    toward, (n,).
    """

    kind: Tensor
    toward: Tensor

    @classmethod
    def drawn(cls, y: Tensor, classes: int, only: int | None = None) -> Assignment:
        """Return a draw of the global generator: kinds by turns, and a class other than the label,
        or one class for all.

        >>> sent = Assignment.drawn(torch.arange(4), 4)
        >>> sent.kind.tolist(), bool((sent.toward == torch.arange(4)).any())
        ([0, 1, 2, 0], False)
        """
        kind = torch.arange(len(y), device=y.device) % len(PERTURBATION_KINDS)
        if only is not None:
            return cls(kind, torch.full_like(y, only))
        toward = (y + torch.randint(1, classes, y.shape).to(y.device)) % classes
        return cls(kind, toward)

    def to(self, device: torch.device) -> Assignment:
        """Return the same on a device."""
        return Assignment(self.kind.to(device), self.toward.to(device))


def descended(
    network: nn.Module, x: Tensor, values: Tensor, sent: Assignment, radii: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the perturbations after a step that turns samples x (n, c, h, w), and which samples
    were turned before it, (n,) bool.
    """
    values = values.detach().requires_grad_()
    logits = precise_logits(network, perturbed(x, values, sent))
    (gradient,) = torch.autograd.grad(toward_loss(logits, sent), values)
    return stepped(values.detach(), gradient, radii), logits.detach().argmax(1) == sent.toward


def perturbed(x: Tensor, values: Tensor, sent: Assignment) -> Tensor:
    """Return samples x (n, c, h, w) with their perturbations, within [0, 1], in x's memory
    layout.
    """
    moved = x + values[sent.kind, sent.toward].to(x.dtype)
    return torch.empty_like(x).copy_(moved.clamp(0, 1))


def toward_loss(logits: Tensor, sent: Assignment) -> Tensor:
    """Return what perturbations lower: a sum, since each of them has samples of its own."""
    return F.cross_entropy(logits, sent.toward, reduction="sum")


@torch.no_grad()
def stepped(values: Tensor, gradient: Tensor, radii: Tensor) -> Tensor:
    """Return the perturbations after a step of STEP radii against the gradient, within the balls.

    Those without a gradient stay where they are.
    """
    moved = []
    for kind, now, slope, radius in zip(PERTURBATION_KINDS, values, gradient, radii, strict=True):
        wide = radius[:, None, None, None]
        downhill = slope if kind.filter is None else kind.filter(slope)
        ahead = now / wide - STEP * kind.ball.steepest(downhill)
        moved.append(wide * kind.ball.project(ahead))
    return torch.stack(moved)


def adapted(radii: Tensor, turned: Tensor, sent: Assignment, share: float) -> Tensor:
    """Return the radii, smaller where more than `share` of a perturbation's samples were turned,
    larger where fewer were; one without samples keeps its own.
    """
    place = (sent.kind, sent.toward)
    ones = torch.ones_like(turned, dtype=radii.dtype)
    samples = torch.zeros_like(radii).index_put(place, ones, accumulate=True)
    hits = torch.zeros_like(radii).index_put(place, turned.to(radii.dtype), accumulate=True)
    factor = torch.where(hits > share * samples, 1 / (1 + GROWTH), 1 + GROWTH)
    return torch.where(samples > 0, radii * factor, radii)
