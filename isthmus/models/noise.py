"""Networks whose answer is random: dropout left on, noise layers, random resizing.

Such a network is recognized by itself, and asked several times: its answer is the mean of its
logits over draws. Source: Athalye et al., ICML 2018, section 5.3 (expectation over the draws);
Croce and Hein, ICML 2020, AutoAttack's version for randomized networks (20 draws, 1e-4).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from isthmus.models.forward import eval_mode, precise_logits
from isthmus.runs.devices import kept_draws

DRAWS = 20
"""How many passes an attack averages over."""

COUNTED_DRAWS = 100
"""How many passes decide whether a sample counts as fooled."""

_CHANGE = 1e-4  # of the largest logit: below it, two passes differ by rounding alone

_random: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
"""Whether a network's answers are random, as its last comparison of two passes has shown."""


@torch.no_grad()
def is_random(model: nn.Module, x: Tensor) -> bool:
    """Return whether a pass over the inputs, at most eight of them, draws random numbers, or two
    passes differ; torch's random numbers stay as they are for the caller.

    Noise may be too rare to be seen in two passes, or come from a generator that nobody knows.
    """
    if not len(x):
        return False
    with kept_draws(x.device), eval_mode(model):
        with watching_draws(x.device) as drawing:
            first = precise_logits(model, x[:8])
        second = precise_logits(model, x[:8])
    differ = (first - second).abs().max() > _CHANGE * first.abs().max().clamp_min(1e-30)
    _random[model] = drawing.drew or bool(differ)
    return _random[model]


def _states(device: torch.device) -> tuple[Any, ...]:
    """Return the states of the generators that networks draw from, to be compared."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    numpy: Any = np.random.get_state(legacy=False)
    arrays = [*(state.numpy() for state in states), *map(np.asarray, numpy["state"].values())]
    return (*(array.tobytes() for array in arrays), random.getstate())


@dataclass
class Drawing:
    """Whether a block of passes drew random numbers."""

    drew: bool = False


@contextmanager
def watching_draws(device: torch.device) -> Iterator[Drawing]:
    """Run a block, and note whether it drew from the generators of torch, numpy or Python."""
    drawing = Drawing()
    before = _states(device)
    yield drawing
    drawing.drew = _states(device) != before


@contextmanager
def seeded_draws(seed: int | None, device: torch.device) -> Iterator[None]:
    """Run a block in which torch's global generators start at the seed, and put them
    back at its end; None leaves them alone.
    """
    if seed is None:
        yield
        return
    with kept_draws(device):
        torch.manual_seed(seed)
        yield


def draws_needed(model: nn.Module, *, drew: bool) -> int:
    """Return how many passes make one answer of the network: `DRAWS` where it is random, else 1.

    It is where a pass of it `drew` random numbers, or the last `is_random` said so.
    """
    return DRAWS if drew or _random.get(model, False) else 1


def mean_of_draws(run: Callable[[], Tensor], draws: int) -> Tensor:
    """Return the mean of what `draws` runs return, with its graph."""
    if draws == 1:
        return run()
    total = run()
    for _ in range(draws - 1):
        total = total + run()
    return total / draws


@dataclass(frozen=True)
class DrawnLogits:
    """The mean logits of a random network (n, classes) over `draws` passes, and whether the 95 %
    interval of each sample's margin leaves its answer open, (n,) bool.
    """

    logits: Tensor
    undecided: Tensor
    draws: int


@torch.no_grad()
def drawn_logits(model: nn.Module, x: Tensor, y: Tensor, draws: int = COUNTED_DRAWS) -> DrawnLogits:
    """Return the mean logits at x over `draws` passes, float32 on x's device, in eval mode.

    The margin is the label's mean logit less the largest other mean logit; its interval is normal,
    from the draws' standard deviation of that difference.
    """
    with eval_mode(model):
        passes = torch.stack([precise_logits(model, x) for _ in range(draws)])
    mean = passes.mean(0)
    rival = mean.scatter(1, y[:, None], -torch.inf).argmax(1)
    margins = passes.gather(2, y.view(1, -1, 1).expand(draws, -1, 1)) - passes.gather(
        2, rival.view(1, -1, 1).expand(draws, -1, 1)
    )
    error = margins.squeeze(2).std(0) / draws**0.5
    undecided = margins.squeeze(2).mean(0).abs() < 1.96 * error
    return DrawnLogits(mean, undecided, draws)
