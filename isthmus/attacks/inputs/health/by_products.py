"""The indicators that an attack leaves behind: no pass of the network is spent on them, but one
over the images that it returned, which the accuracy takes anyway, and one over the clean ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from isthmus.attacks.inputs.health import answers, blindness, convergence, counts
from isthmus.attacks.inputs.health.indicator import Indicator, Run, judged
from isthmus.attacks.inputs.memory import Memory, remembering
from isthmus.data.dataset import Data
from isthmus.metrics.health import Health
from isthmus.metrics.passes import Passes
from isthmus.types import Attack

BY_PRODUCTS = (
    Indicator(
        "zero gradients",
        blindness.blind,
        0.05,
        "AutoAttack warns from one sample on; 5 % leaves room for samples whose probability rounds "
        "to 1",
        "the gradient in the input is zero, and an attack along it cannot move",
        "attack with Square, which needs none; where a layer rounds or thresholds, name it for a "
        "straight-through gradient (--straight-through); attack the margin if the logits are large",
    ),
    Indicator(
        "zero gradients at the start",
        blindness.blind_at_start,
        0.05,
        "AutoAttack warns from one sample on; 5 % leaves room for samples whose probability rounds "
        "to 1",
        "the gradient in the input is zero where the attack starts",
        "attack the margin or DLR, which do not saturate, or with Square",
    ),
    Indicator(
        "random answers",
        answers.random_answers,
        0.5,
        "AutoAttack: two passes over the same inputs differ by more than 1e-4 of the largest logit",
        "two passes over the same inputs differ, so that the number is a mean over draws",
        "turn dropout and noise off if they are on by mistake; else take it as an upper bound: "
        "more draws may fool more",
    ),
    Indicator(
        "undecided samples",
        answers.open_answers,
        0.05,
        "the resolution of the 95 % interval of 400 samples",
        "the draws leave the answers on these samples open",
        "count the mean over more draws",
    ),
    Indicator(
        "probabilities as logits",
        answers.probabilities,
        0.5,
        "AutoAttack: outputs in [0, 1] that sum to 1",
        "the network returns probabilities, and the attack takes them for logits",
        "remove the softmax from the network",
    ),
    Indicator(
        "lost digits",
        answers.lost_digits,
        1e-3,
        "a thousandth of the logits' spread is lost to rounding",
        "the logits carry a constant beside which their differences are rounded away",
        "subtract it inside the network, or attack in float64",
    ),
    Indicator(
        "silent success",
        counts.silent_success,
        0.005,
        "Pintor et al. warn from one sample on; half a percent leaves room for other rounding in "
        "other batches",
        "the attack met points that fool and returned others",
        "return the point that fools: returns='fooled'",
    ),
    Indicator(
        "weaker than none",
        counts.weaker_than_none,
        0.005,
        "an attack may return its input; half a percent leaves room for rounding",
        "samples that are wrong without the attack are right after it",
        "keep the input where it is wrong already",
    ),
    Indicator(
        "outside the ball",
        counts.outside,
        1.001,
        "a thousandth leaves room for rounding",
        "the attack returned points outside its ball, and the number is for a larger one",
        "project onto the ball; put normalization inside the network",
    ),
    Indicator(
        "reach",
        convergence.reach,
        1 - 1e-6,
        "steps that together do not cross the radius cannot reach its end",
        "all steps together do not cross the ball",
        "take longer or more steps: 2.5 eps / steps is the default",
        below=True,
    ),
    Indicator(
        "alignment",
        convergence.alignment,
        0.3,
        "measured, docs/results/attack_health.md",
        "the perturbations do not agree with the gradient where the attack stopped: it did not "
        "come near a maximum",
        "take more or longer steps",
        below=True,
    ),
    Indicator(
        "incomplete optimization",
        convergence.still_rising,
        0.25,
        "Pintor et al. take 5 % of the range in the last 10 of many steps; for few steps measured, "
        "docs/results/attack_health.md",
        "the objective was still rising when the attack stopped",
        "take more steps",
        decisive=False,
    ),
    Indicator(
        "boundary",
        convergence.boundary,
        0.9,
        "measured, docs/results/attack_health.md",
        "the attack does not use its whole radius",
        "take longer steps",
        decisive=False,
        below=True,
    ),
    Indicator(
        "spread over restarts",
        convergence.spread,
        0.5,
        "measured, docs/results/attack_health.md",
        "restarts end at very different values",
        "take more restarts",
        decisive=False,
    ),
    Indicator(
        "distinct maxima",
        convergence.maxima,
        float("inf"),
        "described, not judged: starts of few steps end in different corners of the ball",
        "restarts end in different places",
        "take more restarts",
        decisive=False,
    ),
    Indicator(
        "iterations to tolerance",
        convergence.iterations,
        float("inf"),
        "described, not judged: steps of one length never settle where the loss is curved",
        "climbs move to the last step",
        "take more steps",
        decisive=False,
    ),
    Indicator(
        "lost to rounding",
        counts.lost_to_rounding,
        0.1,
        "measured, docs/results/attack_health.md",
        "these fooled images do not survive rounding to 8 bits",
        "attack within a slightly larger margin, or count rounded images",
        decisive=False,
    ),
    Indicator(
        "few classes",
        answers.classes,
        4,
        "AutoAttack: targeted DLR takes four classes",
        "AutoAttack does not run on so few classes",
        "attack with PGD on the margin, and Square",
        decisive=False,
        below=True,
    ),
)


@dataclass(frozen=True, eq=False)
class AttackWatch:
    """An attack under observation: what it remembers, and what that says of it."""

    attack: Attack
    memory: Memory

    def state(self) -> dict[str, Tensor]:
        """Return all that is remembered as tensors by name."""
        return self.memory.state()

    def add(self, state: Mapping[str, Tensor]) -> None:
        """Remember what another watch's `state` holds as well."""
        self.memory.add(state)

    def health(self, passes: Passes, clean: Data, moved: Data) -> Health:
        """Return the health of the attack that made `moved` of `clean` in this block."""
        return judged(Run(passes, self.attack, clean, moved, self.memory), BY_PRODUCTS)


@contextmanager
def watching(attack: Attack) -> Iterator[AttackWatch]:
    """Run a block in which the attack remembers what it does."""
    with remembering() as memory:
        yield AttackWatch(attack, memory)
