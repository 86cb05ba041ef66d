"""What stands between images in [0, 1] and a network that wants them otherwise: size and
normalization.

They are hooks of the network and not a layer in front of it: every pass applies them, also under
other weights, and the names in its state dict stay those of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isthmus.models.forward import computing_type, device_of, logits_in
from isthmus.runs.wording import counted, suggestion
from isthmus.types import BadInput

M = TypeVar("M", bound=nn.Module)

STATISTICS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "inception": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}
"""Normalizations by name: the mean and the standard deviation of each channel."""


@dataclass(frozen=True)
class Preparation:
    """How images are changed in front of a network: to `size` (height, width), bilinear, then
    (x - mean) / std in each channel. What is None is left out.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.std is None) or len(self.mean or ()) != len(self.std or ()):
            raise BadInput(
                f"mean {self.mean} and std {self.std}",
                expected="a number of each for every channel",
                fix="pass both, or none",
            )
        if not _finite(self.mean or ()):
            raise BadInput(
                f"mean {self.mean}",
                expected="numbers that are finite in float32",
                fix="correct it, or pass --normalize MEAN,STD",
            )
        std = self.std or ()
        if not (all(deviation > 0 for deviation in std) and _finite(std, reciprocal=True)):
            raise BadInput(
                f"std {self.std}",
                expected="numbers above zero that a float32 can be divided by",
                fix="correct it, or pass --normalize MEAN,STD",
            )

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the inputs of a pass, the first one changed: a forward hook of torch."""
        x, *others = inputs
        if self.size is not None and tuple(x.shape[2:]) != self.size:
            x = F.interpolate(x, self.size, mode="bilinear", antialias=True)
        if self.mean is not None:
            self._check_channels(x)
            x = (x - self._channels(self.mean, module)) / self._channels(self.std, module)
        return (x, *others)

    def _channels(self, numbers: Sequence[float] | None, module: nn.Module) -> Tensor:
        values = torch.tensor(numbers, device=device_of(module), dtype=computing_type(module))
        return values.reshape(1, -1, 1, 1)

    def _check_channels(self, x: Any) -> None:
        if x.shape[1] != len(self.mean or ()):
            raise BadInput(
                f"images of {counted(x.shape[1], 'channel', 'channels')}",
                expected=f"{len(self.mean or ())}, for the mean and std of each",
                fix="pass a mean and a std of each channel (--normalize 0.5,0.25), and build the "
                "network for as many (timm:NAME,in_chans=1), or give images that have them",
            )

    def __str__(self) -> str:
        """Say in words what happens to the images."""
        parts = []
        if self.size is not None:
            parts.append(f"resized to {self.size[0]}x{self.size[1]}")
        if self.mean is not None and self.std is not None:
            numbers = (", ".join(f"{value:g}" for value in part) for part in (self.mean, self.std))
            parts.append("normalized by mean {} and std {}".format(*numbers))
        return " and ".join(parts) or "as they are, in [0, 1]"


def _finite(numbers: Sequence[float], *, reciprocal: bool = False) -> bool:
    """Return whether numbers are finite in float32, and their reciprocals where these count too."""
    with np.errstate(all="ignore"):  # what overflows is told by the values
        singles = np.array(numbers, dtype=np.float32)
        finite = np.isfinite(singles) & (np.isfinite(1 / singles) | (not reciprocal))
        return bool(finite.all())


def prepared(network: M, preparation: Preparation) -> M:
    """Return the network, whose every pass prepares its images from now on, and returns logits.

    Nothing of that is in its state dict. A network that returns its logits as part of a tuple, a
    dict or a dataclass returns them alone.

    >>> net = prepared(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), Preparation((0.5,), (0.25,)))
    >>> list(net.state_dict())
    ['1.weight', '1.bias']
    """
    if preparation != Preparation():
        network.register_forward_pre_hook(preparation, prepend=True)
    network.register_forward_hook(_logits_alone)
    return network


def _logits_alone(module: nn.Module, inputs: Any, out: Any) -> Any:
    logits = logits_in(out)
    return out if logits is None else logits  # bounds of values stand for themselves


def parse_normalization(text: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return the mean and std of each channel that a text names; None for "none".

    The text is a name in `STATISTICS`, or all means and then all deviations, separated by commas.
    Raises BadInput where it is neither.

    >>> parse_normalization("0.5,0.25"), parse_normalization("none")
    (((0.5,), (0.25,)), None)
    """
    if text == "none":
        return None
    if text in STATISTICS:
        return STATISTICS[text]
    try:
        numbers = [float(word) for word in text.replace(";", ",").split(",")]
    except ValueError:
        numbers = []
    if not numbers or len(numbers) % 2:
        raise BadInput(
            f"normalization {text!r}",
            expected="imagenet, none, or means and deviations, such as 0.5,0.25 for one channel",
            fix=suggestion(text, [*STATISTICS, "none"]),
        )
    half = len(numbers) // 2
    return tuple(numbers[:half]), tuple(numbers[half:])
