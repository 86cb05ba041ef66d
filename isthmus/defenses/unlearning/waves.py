"""Random waves over whole images, as a defender's stand-ins for patterns that no search finds.

Source: Yin et al., A Fourier Perspective on Model Robustness, NeurIPS 2019, section 3, for the
Fourier basis as a probe of a network. A pattern that spreads over the image in a few frequencies,
as the sinusoid of Barni et al. (SIG, ICIP 2019) does, is larger than any universal perturbation
that a search needs, so the search stops short of it.

Where we depart: waves are drawn at random, one for each sample, and not searched for.
"""

from __future__ import annotations

from math import log, pi

import torch
from torch import Tensor

STRENGTH = 0.17
"""The largest amplitude, in values of [0, 1]."""


def waved(x: Tensor, strength: float = STRENGTH) -> Tensor:
    """Return images x (n, c, h, w), each under a gray wave of its own, within [0, 1], in x's memory
    layout.

    Direction and phase are uniform; the number of periods over the shorter side is between 1 and
    half of its pixels, uniform in its logarithm; the amplitude is uniform up to `strength`. Draws
    are the global generator's.
    """
    n, _, height, width = x.shape
    side = min(height, width)
    direction, phase, octave, amplitude = torch.rand(4, n, 1, 1)
    periods = torch.exp(octave * log(max(2, side) / 2)) / side  # for each pixel
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    along = torch.cos(pi * direction) * columns + torch.sin(pi * direction) * rows
    waves = strength * amplitude * torch.sin(2 * pi * (periods * along + phase))
    moved = x + waves[:, None].to(x)
    return torch.empty_like(x).copy_(moved.clamp(0, 1))
