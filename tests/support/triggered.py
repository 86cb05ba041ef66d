"""The table of all triggers, and the laws that each of them keeps.

A new trigger is one row or more in `TRIGGERS`; `tests/attacks/triggers/test_laws.py` fails where a
public one has none, and runs every law on every row."""

from __future__ import annotations

import torch
from support.networks import network
from torch import Tensor

from isthmus.attacks import (
    Blend,
    GeneratedTrigger,
    LowFrequency,
    OwnTrigger,
    Patch,
    Sinusoid,
    Warp,
)
from isthmus.types import Trigger


class _Painter(torch.nn.Module):
    """What `GeneratedTrigger` wants: a network from images to images."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = network("batchnorm", 7)[0]

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.convolution(x)[:, :3].sigmoid()) / 2


def bright_row(x: Tensor) -> Tensor:
    """A trigger as users write it: it changes what it is given, and returns it."""
    x[:, :, 0] = 1.0
    return x


TRIGGERS: dict[str, Trigger] = {
    "Patch": Patch(),
    "Patch, one pixel": Patch(size=1, at=(0, 0), value=0.0),
    "Patch, by channel": Patch(size=2, at=(1, -4), value=(1.0, 0.0, 0.5)),
    "Blend": Blend(0.2, seed=3),
    "Blend, pattern": Blend(0.5, pattern=torch.linspace(0, 1, 192).view(3, 8, 8)),
    "Sinusoid": Sinusoid(0.5, frequency=3),
    "LowFrequency": LowFrequency(0.6, seed=2),
    "LowFrequency, l2": LowFrequency(2.0, cutoff=3, norm="l2"),
    "LowFrequency, pattern": LowFrequency(pattern=torch.linspace(-1, 1, 192).view(3, 8, 8)),
    "Warp": Warp(strength=3.0),
    "Warp, cover": Warp(strength=1.0, noise=2.0, seed=1),
    "GeneratedTrigger": GeneratedTrigger(_Painter().eval()),
    "OwnTrigger": OwnTrigger("support.triggered:bright_row", bright_row),
}
BOUND_TO_A_SHAPE = ("GeneratedTrigger", "Blend, pattern", "LowFrequency, pattern")
"""Triggers that carry a picture or a network of their own, made for images (3, 8, 8)."""


def keeps_its_promise(trigger: Trigger, x: Tensor, *, tolerance: float = 0.0) -> None:
    """Assert that a trigger is a function of each image that stays among images like x.

    `tolerance`: how far the same image may come out in another batch, for a trigger that runs a
    network."""
    before = x.clone()
    state = torch.get_rng_state()
    changed = trigger(x)
    assert torch.equal(torch.get_rng_state(), state), "the caller's random state is left as it was"
    assert torch.equal(x, before), "the input is left as it was"
    assert changed.shape == x.shape and changed.dtype == x.dtype and changed.device == x.device
    assert not changed.requires_grad
    if not len(x):
        return
    assert torch.isfinite(changed).all() and changed.min() >= 0 and changed.max() <= 1
    again = trigger(x)
    assert torch.equal(again, changed), "the same images, the same result"
    alone = torch.cat([trigger(x[i : i + 1]) for i in range(len(x))])
    assert torch.allclose(alone, changed, rtol=0, atol=tolerance), "an image's own affair"
