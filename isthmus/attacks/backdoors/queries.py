"""Is the backdoor gone, or asleep? What queries bring back without any training.

Source: Min et al., "Uncovering, Explaining, and Mitigating the Superficial Safety of Backdoor
Defense", NeurIPS 2024, section 3.3 (query-based re-activation attack): a perturbation of at most
16/255 is put on inputs with the trigger, so that the repaired network obeys it again.

Where we depart: the paper trains an autoencoder with the network's gradients on 1,000 images; here
one perturbation for all images is searched from answers alone, by the squares of Andriushchenko et
al. (ECCV 2020) on whole batches, with a few hundred tries. The paper keeps a clean network right at
the same time, which nobody has who received one checkpoint: the control is the same search without
the trigger, which finds what any network gives way to.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from isthmus.data.balls import Linf
from isthmus.data.dataset import Data, Source, as_data
from isthmus.metrics.passes import check_fits, logits
from isthmus.metrics.success import Target, eligible, target_of
from isthmus.runs.progress import bar
from isthmus.types import BadInput, Trigger

QUERIES = 300
"""How many perturbations are tried."""

_FIRST_SIZE = 0.3
"""The side of the first squares, as a share of the image's; it falls with the square root of the
share of tries that is left."""


@dataclass(frozen=True, eq=False)
class Perturbed:
    """A trigger with one perturbation on top: clamp(trigger(x) + delta); delta (c, h, w).

    Without a trigger it is the perturbation alone.
    """

    delta: Tensor
    trigger: Trigger | None = field(default=None)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the changed images."""
        x = x if self.trigger is None else self.trigger(x)
        return (x + self.delta.to(x)).clamp(0, 1)


@dataclass(frozen=True)
class QueryReactivation:
    """Search one perturbation within `ball` that makes a network obey the trigger again, or, where
    `trigger` is None, that leads clean images to the target.

    `queries` perturbations are tried, each on `images` eligible samples: the network answers
    queries * images times. Kept is what has the largest mean probability of the target.

    Raises BadInput where queries or images are below 1, or the target is "all": no single
    perturbation leads every class to another.
    """

    trigger: Trigger | None
    target: Target
    ball: Linf = field(default_factory=lambda: Linf(16 / 255))
    queries: int = QUERIES
    images: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        if self.queries < 1 or self.images < 1:
            raise BadInput(
                f"{self.queries} queries on {self.images} images",
                expected="1 or more of both",
                fix=f"pass queries={QUERIES}",
            )
        if self.target == "all":
            raise BadInput(
                "target 'all' for one perturbation",
                expected="a class",
                fix="leave queries out (--queries 0)",
            )

    def __call__(self, network: nn.Module, samples: Source) -> Perturbed:
        """Return trigger and best perturbation as one trigger, to be measured on other samples.

        Raises BadInput where the network cannot read the samples, or none is of another class.
        """
        data = self._searched(as_data(samples))
        check_fits(network, data)
        generator = torch.Generator().manual_seed(self.seed)
        shape = data.x.shape[1:]
        signs = torch.randint(0, 2, (shape[0], 1, shape[2]), generator=generator)  # stripes
        best = self.ball.eps * (2.0 * signs - 1).expand(shape).clone()
        highest = self._score(network, data, best)
        with bar("re-activating by queries", self.queries, 1) as advance:
            for query in range(1, self.queries):
                tried = _with_square(best, self.ball.eps, 1 - query / self.queries, generator)
                score = self._score(network, data, tried)
                if score > highest:
                    best, highest = tried, score
                advance(f"probability {highest:.3f}")
        return Perturbed(best, self.trigger)

    def _searched(self, data: Data) -> Data:
        """Return the samples that the search looks at, with the trigger on, where there is one, and
        the target as label.
        """
        pool = eligible(data, self.target)
        if not len(pool):
            raise BadInput(
                "only samples of the target class",
                expected="some of another class",
                fix="choose another target",
            )
        order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(self.seed))
        chosen = data[pool[order[: self.images]]]
        images = chosen.floats()
        if self.trigger is not None:
            images = self.trigger(images)
        return Data(images, target_of(chosen.y, self.target, data.num_classes), data.classes)

    def _score(self, network: nn.Module, data: Data, delta: Tensor) -> float:
        """Return the mean probability of the target under the perturbation: one query."""
        moved = Data((data.floats() + delta).clamp(0, 1), data.y, data.classes)
        probabilities = logits(network, moved).double().softmax(1)
        return float(probabilities.gather(1, data.y[:, None]).mean())


def _with_square(delta: Tensor, eps: float, left: float, generator: torch.Generator) -> Tensor:
    """Return the perturbation with one square of it at another corner of the ball: every channel is
    eps up or down. `left` is the share of tries that is left.
    """
    channels, height, width = delta.shape
    side = max(1, round(_FIRST_SIZE * min(height, width) * left**0.5))
    top = int(torch.randint(0, height - side + 1, (), generator=generator))
    start = int(torch.randint(0, width - side + 1, (), generator=generator))
    signs = 2.0 * torch.randint(0, 2, (channels, 1, 1), generator=generator) - 1
    tried = delta.clone()
    tried[:, top : top + side, start : start + side] = eps * signs
    return tried
