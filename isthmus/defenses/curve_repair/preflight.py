"""What a repair looks at before any work: do the bonafide samples belong together and to the
network, and what does recalibrating BatchNorm alone cost?

Source: ours; docs/method.md. The network that answers is the tampered one, so what it doubts may be
a wrong label, a foreign image, or an image that carries a trigger.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from isthmus.data.dataset import Data
from isthmus.data.splits import Parts, among, repeated
from isthmus.metrics.passes import logits
from isthmus.metrics.values import Rate
from isthmus.models.batchnorm import frozen_statistics, recalibrate, recalibrated_layers
from isthmus.models.view import copied
from isthmus.runs.notices import notice
from isthmus.runs.wording import abbreviated, counted, percent

SURE = 0.95
"""The probability from which on a network counts as sure of an answer."""

DOUBTFUL = 0.05
"""The share of samples that a network may be sure to know better without a warning.

A well-trained network that is right on 90 % of its images is sure and wrong on some 3 % of them."""

NOTEWORTHY = 5
"""The number of doubted samples from which on it is a warning that most of them get one answer."""

BEYOND_CHANCE = 0.05
"""The largest p-value at which recalibration counts as changing the accuracy."""

Statistics = Literal["recalibrated", "frozen", "none"]
"""What becomes of the running statistics of BatchNorm on a path."""


@dataclass(frozen=True)
class Observed:
    """One line of a preflight, whether it is a concern, what that throws a doubt on, and whether a
    notice has told of it already.
    """

    text: str
    concern: bool = False
    about: Literal["samples", "choice", "network"] = "samples"
    told: bool = False


@dataclass(frozen=True)
class Samples:
    """What the bonafide samples look like to the tampered network and to each other.

    `copies` repeat an earlier image pixel for pixel, `contradictions` do so with another label, and
    `shared` are held-out samples whose image also trains. `doubted` are the places of samples that
    the network is sure to be of another class, `answer` the class that it gives most of them.
    """

    fitted: int
    held_out: int
    missing: tuple[str, ...]
    copies: int
    contradictions: int
    shared: int
    doubted: tuple[int, ...]
    answer: str | None

    @classmethod
    def of(cls, tampered: nn.Module, parts: Parts) -> Samples:
        """Look at the samples. Raises BadInput where the network cannot read them."""
        data = parts.whole
        copies = repeated(data)
        doubted, answer = _doubted(tampered, data)
        return cls(
            fitted=len(parts.fitted),
            held_out=len(parts.held_out) if parts.disjoint else 0,
            missing=parts.missing,
            copies=int(copies.sum()),
            contradictions=int((copies & ~repeated_with_label(data)).sum()),
            shared=int(among(parts.held_out, parts.fitted).sum()) if parts.disjoint else 0,
            doubted=doubted,
            answer=answer,
        )

    @property
    def count(self) -> int:
        """How many samples there are."""
        return self.fitted + self.held_out

    def findings(self) -> list[Observed]:
        """Return what there is to say about the samples, one line each."""
        lines = [self._use(), *self._copies()]
        if self.missing:
            text = f"no sample of {abbreviated(self.missing)}: what a repair does to them is unseen"
            lines.append(Observed(text, concern=True, told=True))
        if self.doubted:
            lines.append(self._doubt())
        if len(lines) == 1:
            lines.append(
                Observed("every class has samples, no image comes twice, and no label is doubted")
            )
        return lines

    def _use(self) -> Observed:
        if not self.held_out:
            text = (
                f"{self.count:,} bonafide samples are too few to hold any out: all of them train "
                "and choose t, so the choice is not tested"
            )
            return Observed(text, concern=True, about="choice")
        return Observed(
            f"{self.count:,} bonafide samples: {self.fitted:,} train, and {self.held_out:,} are "
            "held out to choose t"
        )

    def _copies(self) -> list[Observed]:
        lines = []
        if self.copies:
            flatters = (
                f"; {self.shared:,} of the held-out samples also train, so their accuracy flatters "
                "the repair"
            )
            text = f"{self.copies:,} of {self.count:,} samples repeat an image, pixel for pixel"
            lines.append(
                Observed(text + (flatters if self.shared else ""), bool(self.shared), "choice")
            )
        if self.contradictions:
            text = f"{self.contradictions:,} of them with another label: at least one is wrong"
            lines.append(Observed(text, concern=True))
        return lines

    def _doubt(self) -> Observed:
        count = len(self.doubted)
        places = ", ".join(map(str, self.doubted[:5])) + (", ..." if count > 5 else "")
        share = count / self.count
        one_answer = self.answer is not None and count >= NOTEWORTHY
        text = (
            f"the network is sure of another class for {count:,} of {self.count:,} samples "
            f"(numbers {places})"
        )
        if one_answer:
            text += f", and most of these are {self.answer!r} to it"
        concern = one_answer or share > DOUBTFUL
        advice = (
            "look at their labels, and for a trigger on them" if concern else "its usual errors"
        )
        return Observed(f"{text}: {advice}", concern)


@dataclass(frozen=True)
class Recalibration:
    """What replacing the running statistics of BatchNorm by those of the samples does on its own.

    `before` and `after` are accuracies on held-out samples; of these `lost` were right before and
    `gained` after alone. Where nothing is replaced the two are equal.
    """

    statistics: Statistics
    frozen: tuple[str, ...]
    before: Rate
    after: Rate
    lost: int = 0
    gained: int = 0

    @classmethod
    def of(cls, tampered: nn.Module, parts: Parts) -> Recalibration:
        """Recalibrate a copy on the samples that train, and measure it on those held out."""
        frozen = tuple(frozen_statistics(tampered))
        was = _right(tampered, parts.held_out)
        before = Rate(int(was.sum()), len(was))
        if not recalibrated_layers(tampered):
            return cls("frozen" if frozen else "none", frozen, before, before)
        now = _right(recalibrate(copied(tampered), parts.fitted), parts.held_out)
        after = Rate(int(now.sum()), len(now))
        lost, gained = int((was & ~now).sum()), int((now & ~was).sum())
        return cls("recalibrated", frozen, before, after, lost, gained)

    @property
    def costs(self) -> bool:
        """Whether accuracy is lost beyond chance: an exact sign test of lost against gained."""
        if self.lost <= self.gained:
            return False
        test = binomtest(self.lost, self.lost + self.gained, alternative="greater")
        return bool(test.pvalue <= BEYOND_CHANCE)

    def findings(self) -> list[Observed]:
        """Return what there is to say about the running statistics, one line each."""
        lines = []
        if self.frozen:
            text = (
                f"{counted(len(self.frozen), 'layer keeps', 'layers keep')} frozen BatchNorm "
                "statistics, which stay as they are at every t"
            )
            lines.append(Observed(text, concern=True, about="network", told=True))
        if self.statistics == "none":
            lines.append(
                Observed("the network has no BatchNorm: nothing is recalibrated", about="network")
            )
        if self.statistics == "recalibrated":
            lines.append(self._cost())
        return lines

    def _cost(self) -> Observed:
        text = (
            f"recalibrating BatchNorm on these samples alone takes the accuracy from "
            f"{percent(self.before)} to {percent(self.after)} of {self.before.n:,}"
        )
        if not self.costs:
            return Observed(f"{text}: no loss beyond chance", about="network")
        why = (
            "they differ from what the network was trained on (shifted, cropped, another source); "
            "give --pad and --flip as in its training, or samples of its own source"
        )
        return Observed(f"{text}: {why}", concern=True, about="network")


@dataclass(frozen=True)
class Preflight:
    """What is known before a repair starts; `findings` says it in one line each."""

    samples: Samples
    recalibration: Recalibration

    def findings(self) -> tuple[Observed, ...]:
        """Return every line, about the samples first."""
        return (*self.samples.findings(), *self.recalibration.findings())


def preflight(tampered: nn.Module, parts: Parts) -> Preflight:
    """Look at the bonafide samples and at the network, and give notice of each concern.

    Costs three passes over the samples. Raises BadInput where the network cannot read them.
    """
    flight = Preflight(Samples.of(tampered, parts), Recalibration.of(tampered, parts))
    for finding in flight.findings():
        if finding.concern and not finding.told:
            notice(finding.text)
    return flight


def repeated_with_label(data: Data) -> Tensor:
    """Return for each image whether it has come before under the same label, (n,) bool."""
    same = torch.zeros(len(data), dtype=torch.bool)
    for label in data.y.unique():
        index = (data.y == label).nonzero().squeeze(1)
        same[index] = repeated(data[index])
    return same


def _right(network: nn.Module, data: Data) -> Tensor:
    """Return whether each sample is predicted as its label, (n,) bool."""
    return logits(network, data).argmax(1) == data.y


def _doubted(network: nn.Module, data: Data) -> tuple[tuple[int, ...], str | None]:
    """Return the places of samples that the network is sure to be of another class, and the class
    that it gives to more than half of them, if there is one.
    """
    sure, answers = logits(network, data).double().softmax(1).max(1)
    places = ((answers != data.y) & (sure >= SURE)).nonzero().squeeze(1)
    if not len(places):
        return (), None
    (answer, count), *_ = Counter(answers[places].tolist()).most_common(1)
    return tuple(places.tolist()), data.names[answer] if 2 * count > len(places) else None
