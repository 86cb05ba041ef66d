"""What binds a detector to how a network computes: its outputs at a few reference images.

Weights alone do not tell a network: another activation, another normalization in front of it or
another size of its input leaves them as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from isthmus.detection.features import Pass, layer_passes
from isthmus.detection.score import malformed, taken
from isthmus.types import BadInput, Params

PROBES = 8
"""How many reference images are kept."""

TOLERANCE = 0.01
"""By how much outputs may differ, as a share of their norm. In a ResNet-20 TF32 changes features by
0.0003, and the normalization of CIFAR-10 in place of ImageNet's by 0.18.
"""

_IMAGES, _LOGITS = "probe_images", "logits"


@dataclass(frozen=True, eq=False)
class Probes:
    """Images (k, c, h, w) as they were given, and by name what the network made of them, (k, d)
    each: the features of every layer, and the logits, where there are any.
    """

    images: Tensor
    outputs: Params

    @classmethod
    @torch.no_grad()
    def of(
        cls, x: Tensor, model: nn.Module, layers: tuple[str, ...], seen: Pass | None = None
    ) -> Self:
        """Return the probes among images x (n, c, h, w), of which a pass has been `seen`."""
        images = x[:PROBES].cpu().clone()
        return cls(images, _outputs(seen or layer_passes(model, images, layers), layers))

    def check(self, model: nn.Module, layers: tuple[str, ...]) -> None:
        """Raise BadInput where a network does something else with the images than before."""
        found = _outputs(layer_passes(model, self.images, layers), layers)
        for name, held in self.outputs.items():
            now = found.get(name)
            share = torch.inf if now is None else _difference(now, held)
            if not share <= TOLERANCE:
                raise BadInput(
                    f"a network with the weights of the detector's whose {name} at its images "
                    f"differ by {share:.2g} of their size",
                    expected=f"{TOLERANCE} at most: the same layers, size and normalization",
                    fix="pass the network as it was then, with its --resize and --normalize, or "
                    "fit a detector for this one",
                )

    def state(self) -> Params:
        """Return images and outputs as tensors by name."""
        return {_IMAGES: self.images, **{f"probe.{name}": t for name, t in self.outputs.items()}}

    @staticmethod
    def are_in(state: Params) -> bool:
        """Return whether a state holds probes."""
        return _IMAGES in state

    @classmethod
    def from_state(cls, state: Params, layers: tuple[str, ...], shape: tuple[int, ...]) -> Self:
        """Return the probes in a state, whose images have that shape. Raises BadInput where they
        are something else.
        """
        images = taken(state, _IMAGES)
        if images.ndim != 4 or not 1 <= len(images) <= PROBES or tuple(images.shape[1:]) != shape:
            raise malformed(f"{_IMAGES} of shape {tuple(images.shape)}")
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise malformed(f"{_IMAGES} of type {images.dtype}")
        names = [*map(_feature, layers), *([_LOGITS] if f"probe.{_LOGITS}" in state else [])]
        outputs = {name: taken(state, f"probe.{name}") for name in names}
        for name, rows in outputs.items():
            good = rows.ndim == 2 and len(rows) == len(images) and rows.is_floating_point()
            if not good or not bool(torch.isfinite(rows).all()):
                raise malformed(f"{name} of shape {tuple(rows.shape)}, or not finite")
        return cls(images, outputs)

    def widths(self, layers: tuple[str, ...]) -> tuple[int, ...]:
        """Return how many features each layer has."""
        return tuple(self.outputs[_feature(name)].shape[1] for name in layers)


def _feature(layer: str) -> str:
    return f"features of {layer}"


def _outputs(seen: Pass, layers: tuple[str, ...]) -> Params:
    """Return features and logits of the first images by name, without logits that mean nothing."""
    pairs = zip(layers, seen.features, strict=True)
    named = {_feature(layer): rows[:PROBES] for layer, rows in pairs}
    if seen.logits is not None and bool(torch.isfinite(seen.logits[:PROBES]).all()):
        named[_LOGITS] = seen.logits[:PROBES]
    return {name: rows.detach().cpu().clone() for name, rows in named.items()}


def _difference(now: Tensor, held: Tensor) -> float:
    """Return by how much outputs differ, as a share of their norm; infinite for other shapes."""
    if now.shape != held.shape:
        return torch.inf
    apart = float(torch.linalg.vector_norm(now.double() - held.double()))
    whole = float(torch.linalg.vector_norm(held.double()))
    return apart / whole if whole else (torch.inf if apart else 0.0)
