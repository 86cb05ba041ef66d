"""How long a command of several parts will take, said in one line before its work begins.

The estimate counts the images that each part passes through the network, with gradients and
without, and times one batch of each. It leaves out what is small beside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from isthmus import metrics, runs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch
    from torch import Tensor, nn

    from isthmus.data import Data
    from isthmus.runs import Precision
    from isthmus.training import Training
    from isthmus.types import Attack, Metric

BATCH = 64
"""Images of the batch that is timed, at most."""

SOONER = "; sooner where the attack fools samples early"
"""A note on what an attack costs: a sample that is fooled is attacked no longer."""

SHORT = 0.5
"""Seconds up to which a batch is timed again."""


@dataclass(frozen=True)
class Part:
    """A part of a command: its name, and how many images it passes without and with gradients, and
    in training, which has a precision of its own.
    """

    name: str
    plain: float = 0
    graded: float = 0
    trained: float = 0

    def times(self, count: float) -> Part:
        """Return the part done this many times."""
        amounts = (count * images for images in (self.plain, self.graded, self.trained))
        return Part(self.name, *amounts)


@dataclass(frozen=True)
class Pace:
    """The seconds that an image takes without gradients, with them, and in training."""

    plain: float
    graded: float
    trained: float

    def seconds(self, part: Part) -> float:
        """Return how long a part takes.

        >>> Pace(1, 2, 3).seconds(Part("all", 100, 10, 1))
        123
        """
        return part.plain * self.plain + part.graded * self.graded + part.trained * self.trained


def note_on(attack: Attack | None) -> str:
    """Return what is to be said of the time that measuring under this attack takes; nothing for
    none.
    """
    return "" if attack is None else SOONER


def parts_of(questions: Mapping[str, Metric]) -> list[Part]:
    """Return a part for each metric.

    Outputs, attacked inputs and derivatives of one set of samples are computed once (`measure`).

    >>> parts_of({})
    []
    """
    known: set[tuple[int, int]] = set()
    parts = []
    for name, metric in questions.items():
        if not isinstance(metric, metrics.Question):
            continue  # a plain function does not say what it costs
        samples = metric.samples
        work = (id(samples.x), id(metric.basis))
        if work not in known:
            known.add(work)
            parts.append(Part(name, len(samples), len(samples) * metric.gradients))
    return parts


def together(name: str, parts: Sequence[Part]) -> Part:
    """Return several parts as one.

    >>> together("all", [Part("a", 1, 2), Part("b", 3)])
    Part(name='all', plain=4, graded=2, trained=0)
    """
    return Part(
        name,
        sum(part.plain for part in parts),
        sum(part.graded for part in parts),
        sum(part.trained for part in parts),
    )


def say_estimate(
    network: nn.Module,
    samples: Data,
    parts: Sequence[Part],
    *,
    training: Training | None = None,
    measured: Pace | None = None,
    note: str = "",
    now: bool = False,
) -> None:
    """Say on standard error what the parts will take together, and each of them; with a `training`,
    whose precision is decided, also where and in which precision, if a part trains; and then the
    note.

    The pace is timed here where it is not `measured`. The line is said `now`, or once work has
    begun that shows its progress. Raises BadInput where the network cannot read the samples.
    """
    measured = measured or pace_of(network, samples, training)
    seconds = [measured.seconds(part) for part in parts]
    line = in_words([part.name for part in parts], seconds)
    place = place_in_words(training) if any(part.trained for part in parts) else ""
    runs.announce(f"{line}{place}{note}", now=now)


def pace_of(network: nn.Module, samples: Data, training: Training | None = None) -> Pace:
    """Return the pace of a network on such samples, in training in its own precision.

    Raises BadInput where the network cannot read the samples.
    """
    metrics.check_fits(network, samples)
    plain, graded = pace(network, samples.x)
    if training is None or (training.precision, training.microbatch) == ("fp32", None):
        return Pace(plain, graded, graded)
    trained = pace_with_gradients(network, samples.x, training.precision, training.microbatch)
    return Pace(plain, graded, trained)


def place_in_words(training: Training | None) -> str:
    """Return where and in which precision a training runs, as the end of a line.

    >>> from isthmus.training import Training
    >>> place_in_words(Training(steps=1, lr=0.1, precision="fp32", device="cpu"))
    '; training on cpu in fp32'
    >>> place_in_words(None)
    ''
    """
    if training is None:
        return ""
    return f"; training on {runs.pick_device(training.device)} in {training.precision}"


def in_words(names: Sequence[str], seconds: Sequence[float]) -> str:
    """Return the whole time and its parts in a line; parts below a second go unnamed.

    >>> in_words(["accuracy", "robust accuracy"], [0.2, 75])
    'about 1:15 min in all: robust accuracy 1:15 min'
    >>> in_words(["curve", "path"], [90, 30])
    'about 2:00 min in all: curve 1:30 min, path 0:30 min'
    """
    whole = f"about {runs.duration(max(1, sum(seconds)))} in all"
    long = [
        f"{name} {runs.duration(time)}"
        for name, time in zip(names, seconds, strict=True)
        if time >= 1
    ]
    return f"{whole}: {', '.join(long)}" if long else whole


def pace(network: nn.Module, images: Tensor) -> tuple[float, float]:
    """Return the seconds that an image takes without gradients, and with them.

    One batch of each is timed, after another one that is not. Where memory runs out, passes are
    halved, as in the work that follows.
    """
    from isthmus.models.forward import as_input, device_of, outputs

    device = device_of(network)
    x = as_input(images[:BATCH], device, channels_last=False)
    plain = _seconds(lambda: outputs(network, x, batch_size=len(x)), device)
    return plain / len(x), pace_with_gradients(network, images)


def pace_with_gradients(
    network: nn.Module,
    images: Tensor,
    precision: Precision = "fp32",
    microbatch: int | None = None,
) -> float:
    """Return the seconds that an image takes with gradients, timed as in `pace`."""
    import torch

    from isthmus.models.forward import (
        as_input,
        device_of,
        eval_mode,
        forward_pass,
        logits_of,
        takes_channels_last,
    )
    from isthmus.models.memory import GradientPasses
    from isthmus.runs.devices import autocast

    device, last = device_of(network), takes_channels_last(network, images)
    x = as_input(images[:BATCH], device, channels_last=last)
    passes = GradientPasses(microbatch)

    def take() -> None:
        leaf = x.clone().requires_grad_()
        trained = [p for p in network.parameters() if p.requires_grad]
        out = logits_of(forward_pass(network, leaf)).float().sum()
        torch.autograd.grad(out, [leaf, *trained], allow_unused=True)

    with eval_mode(network), torch.enable_grad(), autocast(device, precision):
        return _seconds(lambda: passes.step(take, len(x)), device) / len(x)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return how long work takes after the first time; of short work, which other processes easily
    disturb, the least of three times.
    """
    work()
    taken = runs.seconds_of(work, device)
    if taken > SHORT:
        return taken
    return min(taken, *(runs.seconds_of(work, device) for _ in range(2)))
