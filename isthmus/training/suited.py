"""The augmentation that fits a network and its data, found by asking the network.

A network that was trained on photographs answers their mirror images as it answers the photographs;
one that was trained on digits does not. So its accuracy on moved images tells which of them it may
be trained with, and whether shifts let in zeros or mirrored pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from isthmus.data.augment import Augment, Border
from isthmus.data.dataset import Data, Source, as_data
from isthmus.models.forward import outputs

_MOST_SAMPLES = 1000  # of which one part in a hundred can be told
_BORDERS: tuple[Border, ...] = ("reflect", "zeros")  # the first one where both keep the same
_PARTS = (8, 16, 32)  # a shift of an eighth, as 4 pixels of 32, is common in training


def suited_augmentation(
    model: nn.Module, data: Source, *, keep: float = 0.95, seed: int = 0
) -> Augment | None:
    """Return the strongest shift, and mirror images, under which a network keeps its accuracy.

    `keep` is the share of its accuracy on the images as they are that it has to reach on the moved
    ones. Shifts of up to an eighth, a sixteenth and a thirty-second of the image's shorter side are
    tried in this order, each with both borders; the border that keeps more is taken. At most 1,000
    samples are used. Returns None where the network keeps its accuracy under nothing, or has none.

    Draws depend on `seed` alone, and the caller's generator stays where it was. Raises BadInput
    where the source is no data, or the network returns no logits.
    """
    data = _some_of(as_data(data))
    images = data.floats()
    needed = keep * _right(model, images, data.y)
    if needed == 0:
        return None
    flip = _right(model, images.flip(3), data.y) >= needed
    side = min(images.shape[2:])
    for pad in sorted({side // part for part in _PARTS} - {0}, reverse=True):
        right = {border: _right_shifted(model, data, pad, border, seed) for border in _BORDERS}
        best = max(_BORDERS, key=right.__getitem__)
        if right[best] >= needed:
            return Augment(pad, flip, best)
    return Augment(0, True) if flip else None


def _some_of(data: Data) -> Data:
    """Return at most as many samples as it takes, evenly from the whole of the data."""
    if len(data) <= _MOST_SAMPLES:
        return data
    return data[torch.linspace(0, len(data) - 1, _MOST_SAMPLES).long()]


def _right(model: nn.Module, images: Tensor, y: Tensor) -> int:
    """Return on how many images the network's answer is their label."""
    return int((outputs(model, images).argmax(1) == y).sum())


def _right_shifted(model: nn.Module, data: Data, pad: int, border: Border, seed: int) -> int:
    """Return on how many images, each shifted by a draw of its own, the network is right."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        shifted = Augment(pad, flip=False, border=border)(data.floats())
    return _right(model, shifted, data.y)
