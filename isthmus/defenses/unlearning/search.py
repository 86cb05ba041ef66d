"""A search for one change of images for each class, small and the same for all images, that turns
them toward the class.

Source: Moosavi-Dezfooli et al., Universal adversarial perturbations, CVPR 2017; Rony et al., DDN,
CVPR 2019, section 3, for a radius that shrinks where an attack succeeds and grows where it fails.

Where we depart: changes are targeted, one for each class and all at once, found by normalized
gradient steps on batches of bonafide samples. What a change is, noise or a warp, says its `Family`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isthmus.data.dataset import Data
from isthmus.metrics.passes import logits
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


REACHED = 0.5
"""The share of the other classes' samples that a network takes for a class without any change,
beyond which the size of a change toward it says nothing."""


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

    def moved(self, values: Tensor) -> bool:
        """Return whether any step has led away from the values that a search starts from."""
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
    network: nn.Module,
    bonafide: Data,
    training: Training,
    family: Family,
    *,
    share: float,
    beside: nn.Module | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the values and radii of changes that turn about `share` of the other classes' samples
    to each class, each in a ball as small as that takes.

    With a network `beside` that one, a sample is turned where the network answers the class and the
    one beside it does not: changes are to leave its answers at the labels. A class that half of
    the other samples are taken for as they are is not odd: its radii are the medians.

    Each of `training.steps` takes one gradient of each network; batches, augmentation, precision
    and seed are those of the training, and its rates do not count. Networks are back on their own
    devices afterward. Notices say where a change has a sample in fewer than FEW_STEPS steps, and
    where no gradient reaches the images. Where memory runs out, passes are halved. Raises BadInput
    where the share is not in (0, 1), there is one class, a network returns no logits, or one sample
    is too many.
    """
    if bonafide.num_classes < 2 or not 0 < share < 1:
        raise BadInput(
            f"{bonafide.num_classes} classes, share = {share:g}",
            expected="two classes or more, and a share in (0, 1)",
            fix="pass share=0.9",
        )
    _tell_of_few_steps(training, bonafide.num_classes, family)
    with ExitStack() as stack:
        networks = [each for each in (network, beside) if each is not None]
        last = [stack.enter_context(_searchable(each, bonafide, training)) for each in networks]
        values, radii = _searched(
            networks, bonafide, training, family, share, channels_last=last[0]
        )
        radii = _usual_where_reached(network, bonafide, radii)
    if not family.moved(values):
        notice(
            f"no gradient reaches the images, so {family.spoken} could not be searched for. A "
            "backdoor may be missed: a network that rounds its input hides it"
        )
    share_from_first([values, radii])  # ranks decide alike by them
    return values, radii


@contextmanager
def _searchable(network: nn.Module, bonafide: Data, training: Training) -> Iterator[bool]:
    """Run a block with a network as a search wants it: on its device, with gradients by its input
    alone; yield whether it takes images channels last.
    """
    with (
        placed(network, pick_device(training.device)),
        frozen(network),
        recomputed(network, bonafide.x, training.recompute),
        laid_out(network, bonafide.x) as last,
    ):
        yield last


def _searched(
    networks: Sequence[nn.Module],
    bonafide: Data,
    training: Training,
    family: Family,
    share: float,
    *,
    channels_last: bool,
) -> tuple[Tensor, Tensor]:
    """Return what is found of the first network, on the device that holds it."""
    device, classes = device_of(networks[0]), bonafide.num_classes
    values, radii = (part.to(device) for part in family.started(classes, bonafide.x.shape[1:]))
    passes = GradientPasses(training.microbatch)
    precision = training_precision(training, networks[0], bonafide.x)
    with autocast(device, precision), torch.random.fork_rng():
        torch.manual_seed(training.seed)
        for step in range(training.steps):
            batch = bonafide[batch_indices(len(bonafide), training.batch_size, step, training.seed)]
            x = batch.x if training.augment is None else training.augment(batch.x)
            x = as_input(x, device, channels_last=channels_last)
            sent = Assignment.drawn(batch.y, classes, family.kinds).to(device)
            step_down = partial(_descended, networks, x, values, sent, radii, family)
            values, turned = passes.step(step_down, training.batch_size)
            radii = adapted(radii, turned, sent, share, family)
    return values, radii


def _usual_where_reached(network: nn.Module, bonafide: Data, radii: Tensor) -> Tensor:
    """Return the radii, the median where samples of other classes are taken for a class as they
    are: nothing that turns them is needed then, and its radius says nothing.
    """
    answers = logits(network, bonafide).argmax(1).cpu()
    classes = torch.arange(bonafide.num_classes)
    others = bonafide.y.cpu()[:, None] != classes
    taken = ((answers[:, None] == classes) & others).sum(0) > REACHED * others.sum(0)
    return torch.where(taken.to(radii.device), radii.median(dim=1, keepdim=True).values, radii)


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
    """Which change each sample of a batch gets: its kind, (n,), the class that it turns toward,
    (n,), and the sample's own class, (n,).
    """

    kind: Tensor
    toward: Tensor
    own: Tensor

    @classmethod
    def drawn(
        cls, y: Tensor, classes: int, kinds: int, only: Sequence[int] | None = None
    ) -> Assignment:
        """Return a draw of the global generator: kinds by turns, and a class other than the label,
        or one of those that are named.

        >>> sent = Assignment.drawn(torch.arange(4), 4, 3)
        >>> sent.kind.tolist(), bool((sent.toward == torch.arange(4)).any())
        ([0, 1, 2, 0], False)
        """
        kind = torch.arange(len(y), device=y.device) % kinds
        if only is not None:
            named = torch.tensor(only, dtype=y.dtype)
            which = torch.randint(len(only), y.shape) if len(only) > 1 else torch.zeros_like(y)
            return cls(kind, named[which.cpu()].to(y.device), y)
        toward = (y + torch.randint(1, classes, y.shape).to(y.device)) % classes
        return cls(kind, toward, y)

    def to(self, device: torch.device) -> Assignment:
        """Return the same on a device."""
        return Assignment(*(part.to(device) for part in (self.kind, self.toward, self.own)))


def _descended(
    networks: Sequence[nn.Module],
    x: Tensor,
    values: Tensor,
    sent: Assignment,
    radii: Tensor,
    family: Family,
) -> tuple[Tensor, Tensor]:
    """Return the values after a step that turns samples x (n, c, h, w), and which samples were
    turned before it, (n,) bool: by the first network, and not by one beside it.
    """
    values = values.detach().requires_grad_()
    changed = family.applied(x, values, sent)
    logits, *beside = [precise_logits(network, changed) for network in networks]
    loss, turned = toward_loss(logits, sent), logits.detach().argmax(1) == sent.toward
    for kept in beside:
        loss = loss + F.cross_entropy(kept, sent.own, reduction="sum")
        turned = turned & (kept.detach().argmax(1) != sent.toward)
    gradient = gradient_by(values, loss)
    return family.stepped(values.detach(), gradient, radii), turned


def gradient_by(values: Tensor, loss: Tensor, *, retain_graph: bool = False) -> Tensor:
    """Return the gradient of a loss by values, 0 where there is none or it is not finite: networks
    may round their input, or take a root of it.
    """
    if not loss.requires_grad:
        return torch.zeros_like(values)
    (gradient,) = torch.autograd.grad(
        loss, values, retain_graph=retain_graph, allow_unused=True, materialize_grads=True
    )
    return gradient.nan_to_num(0.0, 0.0, 0.0)


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
