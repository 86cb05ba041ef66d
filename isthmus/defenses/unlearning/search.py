"""A search for one change of images for each class, small and the same for all images, that turns
them toward the class.

Source: Moosavi-Dezfooli et al., Universal adversarial perturbations, CVPR 2017; Rony et al., DDN,
CVPR 2019, section 3, for a radius that shrinks where an attack succeeds and grows where it fails.

Where we depart: changes are targeted, one for each class and all at once, found by normalized
gradient steps on batches of bonafide samples. What a change is, noise or a warp, says its `Family`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
from isthmus.runs.processes import share_from_first
from isthmus.training.batches import batch_indices
from isthmus.training.budget import Training
from isthmus.training.precision import training_precision
from isthmus.types import BadInput

GROWTH = 0.08
"""By which share a radius grows or shrinks in a step: eight times as large after 27 steps."""

FEW_STEPS = 27
"""Steps with a sample that a change needs at least, on average: its radius moves once in each of
them, and an eightfold radius, from 1 % to 8 % everywhere, takes as many as this."""


class Family(Protocol):
    """What changes of images are: values (kinds, classes, ...), and radii (kinds, classes) that
    bound their sizes. `kinds` is the number of kinds, and `spoken` what the changes are called.
    """

    kinds: ClassVar[int]
    spoken: ClassVar[str]

    def started(self, classes: int, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """Return the values and radii that a search on images (c, h, w) starts from."""
        ...

    def applied(self, x: Tensor, values: Tensor, sent: Assignment) -> Tensor:
        """Return samples x (n, c, h, w) with the changes that they are sent, within [0, 1]."""
        ...

    def stepped(self, values: Tensor, gradient: Tensor, radii: Tensor) -> Tensor:
        """Return the values after a step against the gradient, within the radii; those without a
        gradient stay where they are.
        """
        ...

    def grown(self, radii: Tensor, factor: Tensor) -> Tensor:
        """Return radii times a factor, no larger than changes may be."""
        ...


@dataclass(frozen=True, eq=False)
class Found:
    """Changes by kind and class, `values` (kinds, classes, ...), and the radius that each needs,
    `radii` (kinds, classes).
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
        """The class of each kind whose change needs the smallest radius."""
        return tuple(self.radii.argmin(dim=1).tolist())

    @property
    def oddness(self) -> Tensor:
        """How much smaller than typical each radius is, as a logarithm, (kinds, classes).

        Of two classes neither is odd: the smaller one is the median.
        """
        return (self.typical_radii[:, None] / self.radii).log()

    @property
    def suspect(self) -> int:
        """The class whose oddest change is the oddest of all."""
        return int(self.oddness.amax(dim=0).argmax())


def searched(
    network: nn.Module, bonafide: Data, training: Training, family: Family, *, share: float
) -> tuple[Tensor, Tensor]:
    """Return the values and radii of changes that turn about `share` of the other classes' samples
    to each class, each in a ball as small as that takes.

    Each of `training.steps` takes one gradient; batches, augmentation, precision and seed are those
    of the training, and its rates do not count. The network is back on its own device afterward. A
    notice says where a change has a sample in fewer than FEW_STEPS steps. Where memory runs out,
    passes are halved. Raises BadInput where the share is not in (0, 1), there is one class, the
    network returns no logits, or one sample is too many.
    """
    if bonafide.num_classes < 2 or not 0 < share < 1:
        raise BadInput(
            f"{bonafide.num_classes} classes, share = {share:g}",
            expected="two classes or more, and a share in (0, 1)",
            fix="pass share=0.9",
        )
    _tell_of_few_steps(training, bonafide.num_classes, family)
    with placed(network, pick_device(training.device)):
        return _searched(network, bonafide, training, family, share)


def _searched(
    network: nn.Module, bonafide: Data, training: Training, family: Family, share: float
) -> tuple[Tensor, Tensor]:
    """Return what is found of a network, on the device that holds it."""
    device, classes = device_of(network), bonafide.num_classes
    values, radii = (part.to(device) for part in family.started(classes, bonafide.x.shape[1:]))
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
            sent = Assignment.drawn(bonafide.y[index], classes, family.kinds).to(device)
            step_down = partial(_descended, network, x, values, sent, radii, family)
            values, turned = passes.step(step_down, training.batch_size)
            radii = adapted(radii, turned, sent, share, family)
    share_from_first([values, radii])  # ranks decide alike by them
    return values, radii


def _tell_of_few_steps(training: Training, classes: int, family: Family) -> None:
    """Give notice of a search whose changes have a sample in fewer than FEW_STEPS steps."""
    count = family.kinds * classes
    without = (1 - 1 / count) ** training.batch_size
    each = training.steps * (1 - without)
    if each < FEW_STEPS:
        notice(
            f"each of {count:,} {family.spoken} ({classes:,} classes) has a sample in "
            f"{each:.2g} of {training.steps:,} steps, and may need {FEW_STEPS}. A backdoor may be "
            "missed: more steps or a larger batch_size help"
        )


@dataclass(frozen=True, eq=False)
class Assignment:
    """Which change each sample of a batch gets: its kind, (n,), and the class that it turns
    toward, (n,).
    """

    kind: Tensor
    toward: Tensor

    @classmethod
    def drawn(cls, y: Tensor, classes: int, kinds: int, only: int | None = None) -> Assignment:
        """Return a draw of the global generator: kinds by turns, and a class other than the label,
        or one class for all.

        >>> sent = Assignment.drawn(torch.arange(4), 4, 3)
        >>> sent.kind.tolist(), bool((sent.toward == torch.arange(4)).any())
        ([0, 1, 2, 0], False)
        """
        kind = torch.arange(len(y), device=y.device) % kinds
        if only is not None:
            return cls(kind, torch.full_like(y, only))
        toward = (y + torch.randint(1, classes, y.shape).to(y.device)) % classes
        return cls(kind, toward)

    def to(self, device: torch.device) -> Assignment:
        """Return the same on a device."""
        return Assignment(self.kind.to(device), self.toward.to(device))


def _descended(
    network: nn.Module, x: Tensor, values: Tensor, sent: Assignment, radii: Tensor, family: Family
) -> tuple[Tensor, Tensor]:
    """Return the values after a step that turns samples x (n, c, h, w), and which samples were
    turned before it, (n,) bool.
    """
    values = values.detach().requires_grad_()
    logits = precise_logits(network, family.applied(x, values, sent))
    (gradient,) = torch.autograd.grad(toward_loss(logits, sent), values)
    ahead = family.stepped(values.detach(), gradient, radii)
    return ahead, logits.detach().argmax(1) == sent.toward


def toward_loss(logits: Tensor, sent: Assignment) -> Tensor:
    """Return what changes lower: a sum, since each of them has samples of its own."""
    return F.cross_entropy(logits, sent.toward, reduction="sum")


def adapted(
    radii: Tensor, turned: Tensor, sent: Assignment, share: float, family: Family
) -> Tensor:
    """Return the radii, smaller where more than `share` of a change's samples were turned,
    larger where fewer were; one without samples keeps its own.
    """
    place = (sent.kind, sent.toward)
    ones = torch.ones_like(turned, dtype=radii.dtype)
    samples = torch.zeros_like(radii).index_put(place, ones, accumulate=True)
    hits = torch.zeros_like(radii).index_put(place, turned.to(radii.dtype), accumulate=True)
    factor = torch.where(hits > share * samples, 1 / (1 + GROWTH), 1 + GROWTH)
    return torch.where(samples > 0, family.grown(radii, factor), radii)
