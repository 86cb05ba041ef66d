"""Unlearning of universal perturbations, under the received network's own answers.

A backdoor answers one pattern on any image. So does every network, to patterns that are a little
larger: universal perturbations. This defense finds one for each class on the bonafide samples, and
trains a copy of the network to answer perturbed samples as the received network answers them
unperturbed, while the perturbations follow the copy. Samples under random waves are answered alike.
Nobody has to know which class, pattern or place the backdoor has.

Source: ours, out of three known parts: min-max unlearning of a universal perturbation (Zeng et al.,
I-BAU, ICLR 2022, section 3; Shafahi et al., Universal Adversarial Training, AAAI 2020, Algorithm
2), targets that a network gives itself instead of labels (Hinton et al., 2015, section 2), and the
smallest ball in which an attack succeeds (Rony et al., CVPR 2019).

Where we depart, and why: (1) the targets are the outputs of the received network on the clean
image, at a temperature, and not labels, of which a few hundred overfit: the copy starts at loss
zero on clean samples, and forgets only what it has to. (2) Perturbations are targeted, one for each
class, because an untargeted one finds the easiest class alone, and of three kinds: fine, smooth and
sparse. Where it is known to which class a backdoor leads, perturbations toward that one alone are
unlearned: every other class's cost accuracy. (3) The balls' radii are measured on the received
network: the median over classes of what turns three samples in four. A larger ball costs accuracy,
and how large that is differs from network to network. Only a class that is oddly easy to reach gets
a larger one. (4) BatchNorm statistics are never those of half-perturbed batches, which would be of
neither kind. Every few steps they are those of the clean samples, moved as recalibration moves the
received network's: with the ones received throughout, part of what the copy forgets would be the
distance between them and its own, and recalibration would bring it back. Where weights are shared
out over processes, statistics follow once, at the end. Measured in
docs/results/trained.md and docs/experiments.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from isthmus.data.dataset import Data, Source, as_data
from isthmus.data.splits import at_most
from isthmus.defenses.spending import Made, Trained
from isthmus.defenses.unlearning.perturbations import (
    PERTURBATION_KINDS,
    PERTURBATIONS,
    SPARSE,
    UniversalPerturbations,
    universal_perturbations,
)
from isthmus.defenses.unlearning.search import GROWTH, Assignment, Family, gradient_by, toward_loss
from isthmus.defenses.unlearning.warps import LARGEST as LARGEST_WARP
from isthmus.defenses.unlearning.warps import WARPS, UniversalWarps, universal_warps
from isthmus.defenses.unlearning.waves import waved
from isthmus.models.batchnorm import layers_with_statistics, recalibrate
from isthmus.models.forward import Wrapper, device_of, eval_mode, forward_pass, precise_logits
from isthmus.models.shift import Shift
from isthmus.models.view import copied
from isthmus.runs.devices import pick_device
from isthmus.runs.processes import average
from isthmus.training.budget import Training
from isthmus.training.loop import fit
from isthmus.training.losses import divergence
from isthmus.types import BadInput

COST = 4
"""Gradient evaluations of a step: the batch is trained on three times, as it is, perturbed and
waved, and the perturbations take a gradient of their own."""

FOLLOWED_EVERY, FOLLOWED_BY = 10, 500
"""The steps of training after which the BatchNorm statistics follow the copy, and how many samples
they are taken from at most: a thirtieth of the work."""

SEARCH_SHARE = 1 / 9
"""The part of the budget that the first search for perturbations gets: a step of it costs one."""

UNLEARNING = Training(steps=450, lr=0.03, clip=1.0)
"""How a network unlearns by default: 50 steps of search and 100 of training.

Chosen on three networks of docs/results/trained.md, which says which. Smaller rates leave more of a
sinusoid, larger ones cost accuracy; twice the steps gain nothing."""

SHARE = 0.75
"""The part of the other classes' samples that a perturbation turns to its class."""

Universal = UniversalPerturbations | UniversalWarps
"""What is unlearned, by kind and class."""

ENOUGH = 1.8
"""How many times as large the radii of perturbations have to be after unlearning.

2.2 to 2.9 on well-trained networks that lost their backdoor at the first rate, 1.2 to 1.7 on small
networks that did not: docs/experiments.md."""

RATES = (1.0, 3.0)
"""The rates of a repair by default, as multiples of the training's."""

LARGEST_RATE = 10.0
"""One more rate for networks without BatchNorm, which does not take a change of scale back there:
what suits the others leaves a tenth of the attack on them (docs/experiments.md, chosen there)."""


@dataclass(frozen=True)
class UniversalUnlearning(Trained):
    """Unlearn universal perturbations: fine, smooth and sparse ones, as large as it takes on the
    tampered network to turn a `share` of the samples to any class.

    `temperature` softens the received network's answers. `rates` are multiples of the training's
    rate, tried in order until perturbations have to be ENOUGH times as large as before; the copy is
    that of the first rate which is enough, or else of the last. Budget: a ninth of the gradients
    search for perturbations, and a step of training costs four; each further rate takes as many
    again. `of` says what is unlearned: perturbations, or warps, for a backdoor that answers a
    distortion of the image. `toward` are the classes whose perturbations alone are unlearned, where
    it is known where a backdoor leads; by default those of all. An unfinished training is saved to
    `checkpoint`, which is no part of the defense's identity.
    """

    training: Training = UNLEARNING
    share: float = SHARE
    temperature: float = 2.0
    rates: Sequence[float] = (1.0,)
    of: Literal["perturbations", "warps"] = "perturbations"
    toward: Sequence[int] | None = None
    checkpoint: str | Path | None = field(default=None, repr=False)

    repaired: ClassVar[bool] = True
    """What it makes is a repaired network by itself, and no second one to lead a curve to."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0 or not 0 < self.share < 1:
            raise BadInput(
                f"share = {self.share:g}, temperature = {self.temperature:g}",
                expected="a share in (0, 1) and a temperature above 0",
                fix="pass share=0.75, temperature=2",
            )
        if self.of not in ("perturbations", "warps"):
            raise BadInput(
                f"of = {self.of!r}",
                expected="perturbations or warps",
                fix='pass of="perturbations"',
            )
        if self.toward is not None:
            named = (self.toward,) if isinstance(self.toward, int) else self.toward
            object.__setattr__(self, "toward", tuple(sorted(set(named))))
        if not self.rates or min(self.rates) <= 0:
            raise BadInput(
                f"rates = {list(self.rates)}",
                expected="one multiple of the rate or more, all above 0",
                fix="pass rates=(1.0, 3.0, 10.0)",
            )

    @property
    def description(self) -> str:
        """What it makes, in words."""
        return f"unlearned copy: it has unlearned universal {self.of}{self._where}"

    @property
    def _where(self) -> str:
        if self.toward is None:
            return ""
        return f" toward {'class' if len(self.toward) == 1 else 'classes'} " + " and ".join(
            map(str, self.toward)
        )

    @property
    def gradients(self) -> int:
        """How many gradient evaluations the defense takes, if it has to try every rate.

        Each rate takes one training and one search: the first search is before the first training,
        and none follows the last.
        """
        return len(self.rates) * self.training.steps

    def within(self, gradients: int) -> UniversalUnlearning:
        """Return the defense at this budget, all of it for one training, at the first rate."""
        return replace(super().within(gradients), rates=self.rates[:1])

    def __call__(self, tampered: nn.Module, bonafide: Source) -> nn.Module:
        """Return the unlearned copy, its BatchNorm statistics those of the samples, moved as
        recalibration moves the tampered network's.

        Raises BadInput where the budget is below a step of search and one of training, or there is
        no class of that number.
        """
        return self.recorded(tampered, bonafide).network

    def recorded(self, tampered: nn.Module, bonafide: Source) -> Made:
        """Return the unlearned copy and the defense at each rate that was tried. Raises BadInput as
        a call.
        """
        data = as_data(bonafide)
        classes = range(data.num_classes)
        if self.toward is not None and not (self.toward and set(self.toward) <= set(classes)):
            raise BadInput(
                f"toward = {list(self.toward)}",
                expected=f"classes 0..{data.num_classes - 1}, one or more",
                fix="pass those that a backdoor leads to, or none",
            )
        teacher = copied(tampered).eval().requires_grad_(False)
        first = self._searched(teacher, data)
        for number in range(len(self.rates)):
            student = self._attempt(teacher, tampered, data, first, number)
            if number == len(self.rates) - 1 or self._has_unlearned(student, data, first):
                break
        runs = tuple(map(self._alone, range(number + 1)))
        return Made(student.eval(), sum(run.gradients for run in runs), runs)

    def _alone(self, number: int) -> UniversalUnlearning:
        """Return the defense at the rate of that number and at no other."""
        lr = self.rates[number] * self.training.lr
        return replace(self, training=self.training.replace(lr=lr), rates=(1.0,))

    def _attempt(
        self,
        teacher: nn.Module,
        tampered: nn.Module,
        data: Data,
        first: Universal,
        number: int,
    ) -> nn.Module:
        """Return the copy that is trained at the rate of that number."""
        student = _Student(copied(tampered), first, self._family)
        alone = self._alone(number).training
        training = alone.replace(steps=(alone.steps - self._search_steps()) // COST)
        teacher = teacher.to(pick_device(training.device))
        fit(
            student,
            data,
            _Unlearning(teacher, self.temperature, self._family, self.toward),
            training=training,
            after_step=None
            if training.shard
            else _Following.of(teacher, at_most(data, FOLLOWED_BY)),
            progress="unlearning",
            checkpoint=self._state_file(number),
        )
        return _Following.of(teacher, data).followed(student.inner)

    def _has_unlearned(self, student: nn.Module, data: Data, before: Universal) -> bool:
        """Return whether warps, or fine and smooth perturbations, have to be ENOUGH times as large
        as before, or, toward one class, as large as those toward others were; sparse ones, of a few
        pixels at the ends of their range, cannot grow as much.
        """
        after = self._searched(student, data)
        sizes = after.typical_radii
        if self.toward is not None:
            sizes = after.radii[:, list(self.toward)].amin(dim=1)
        enough = before.typical_radii * (ENOUGH if self.toward is None else 1.0)
        if self.of == "warps":  # which grow no farther, and shrink by a step there
            enough = enough.clamp(max=LARGEST_WARP) / (1 + GROWTH)
            return bool((sizes >= enough).all())
        dense = [kind is not SPARSE for kind in PERTURBATION_KINDS]
        return bool((sizes >= enough)[dense].all())

    def _state_file(self, number: int) -> Path | None:
        """Return where the training at the rate of that number is saved: one of another class or
        family is another file.
        """
        if self.checkpoint is None:
            return None
        file = Path(self.checkpoint)
        aim = "" if self.toward is None else f"-{self.of}-" + "+".join(map(str, self.toward))
        return file.with_stem(f"{file.stem}{aim}-{number}" if number else f"{file.stem}{aim}")

    @property
    def _family(self) -> Family:
        return PERTURBATIONS if self.of == "perturbations" else WARPS

    def _searched(self, network: nn.Module, data: Data) -> Universal:
        search = self.training.replace(steps=self._search_steps())
        find = universal_perturbations if self.of == "perturbations" else universal_warps
        return find(network, data, search, share=self.share)

    def _search_steps(self) -> int:
        least = COST + 1
        if self.training.steps < least:
            raise BadInput(
                f"a budget of {self.training.steps} gradient evaluations",
                expected=f"{least} or more: a step of search and one of training",
                fix=f"pass steps={UNLEARNING.steps}",
            )
        return max(1, int(SEARCH_SHARE * self.training.steps))


class _Student(Wrapper):
    """The network that unlearns, and the perturbations or warps that follow it: part of its state,
    so that an interrupted training goes on with them.
    """

    perturbations: Tensor
    radii: Tensor
    steps: Tensor

    def __init__(self, network: nn.Module, first: Universal, family: Family) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("radii", first.unlearning_radii)
        within = family.stepped(first.values, torch.zeros_like(first.values), self.radii)
        self.register_buffer("perturbations", within)

    @property
    def inner(self) -> nn.Module:
        """The network that unlearns."""
        return self.network

    def forward(self, x: Tensor) -> object:
        """Return the network's outputs."""
        return forward_pass(self.network, x)

    def train(self, mode: bool = True) -> _Student:
        """Set the mode; layers with running statistics stay in eval mode."""
        super().train(mode)
        for layer in layers_with_statistics(self.network):
            layer.eval()
        return self


@dataclass(frozen=True, eq=False)
class _Following:
    """What makes BatchNorm statistics follow the student, every few steps."""

    shift: Shift = field(repr=False)
    data: Data = field(repr=False)

    @classmethod
    def of(cls, teacher: nn.Module, data: Data) -> _Following:
        """Return the hook for students of a teacher, whose own statistics are the measure."""
        return cls(Shift.between(teacher, recalibrate(copied(teacher), data)), data)

    def __call__(self, student: nn.Module) -> None:
        """Count a step, and let the statistics follow where it is time."""
        assert isinstance(student, _Student)
        student.steps += 1
        if student.steps % FOLLOWED_EVERY == 0:
            self.followed(student.inner)

    def followed(self, network: nn.Module) -> nn.Module:
        """Give the network the statistics of the samples, moved; return it."""
        return self.shift.apply(recalibrate(network, self.data))


@dataclass(frozen=True, eq=False)
class _Unlearning:
    """How far a student's answers, to samples as they are, perturbed and waved, are from the
    teacher's to the samples as they are. Each call moves the perturbations by a step.
    """

    teacher: nn.Module = field(repr=False)
    temperature: float
    family: Family
    toward: Sequence[int] | None

    def __call__(self, student: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        assert isinstance(student, _Student)
        with torch.no_grad(), eval_mode(self.teacher.to(device_of(student))):
            wanted = precise_logits(self.teacher, x)
        classes = student.perturbations.shape[1]
        sent = Assignment.drawn(y, classes, self.family.kinds, self.toward)
        values = student.perturbations.detach().clone().requires_grad_()
        views = torch.cat([x, self.family.applied(x, values, sent), waved(x)])
        clean, turned, overlaid = precise_logits(student, views).chunk(3)
        gradient = gradient_by(values, toward_loss(turned, sent), retain_graph=True)
        average([gradient])  # so that all ranks have the same perturbations
        ahead = self.family.stepped(values.detach(), gradient, student.radii)
        student.perturbations.copy_(ahead)
        as_they_are, despite_perturbations, despite_waves = (
            divergence(logits, wanted, self.temperature) for logits in (clean, turned, overlaid)
        )
        return as_they_are + despite_perturbations + despite_waves
