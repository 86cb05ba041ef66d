"""A loss that empties channels: the group lasso over the filters of convolutions, also relaxed.

Source: Dinh et al., Sparsity Meets Robustness, LOD 2020 (RGSM): a group lasso, and a coupling of
the weights with their group-shrunk copy. Where we depart: the copy is that of the present weights,
so the coupling is a function of the weights alone: the group lasso, rounded off near 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from isthmus.models.channels.filters import filters
from isthmus.models.view import View
from isthmus.training.losses import gradients_per_step
from isthmus.types import BadInput, Loss


@dataclass(frozen=True)
class ChannelLasso:
    """A loss and `strength` times the norms of all filters. See `channel_lasso`."""

    loss: Loss
    strength: float
    knee: float = 0.0

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss. Raises BadInput where no convolution of the model trains."""
        value = self.loss(model, x, y)
        norms = torch.cat([rows.norm(dim=1) for rows in _filters(model)])
        return value + self.strength * self._rounded_off(norms).sum()

    @property
    def gradients(self) -> int:
        """How many gradients a step takes: those of the loss."""
        return gradients_per_step(self.loss)

    def _rounded_off(self, norms: Tensor) -> Tensor:
        """Return the norms less half a knee; below the knee squares, which meet them there."""
        if not self.knee:
            return norms
        low = norms.square() / (2 * self.knee)
        return torch.where(norms < self.knee, low, norms - self.knee / 2)


def channel_lasso(loss: Loss, strength: float, knee: float = 0.0) -> ChannelLasso:
    """Return a loss plus `strength` times the sum of the Euclidean norms of all filters, (in, k, k)
    weights for each channel that a convolution makes, transposed ones among them.

    It pulls whole channels to 0; rounding (`quantize`) or pruning makes them exactly 0. Filters
    with a norm below `knee` are pulled by the square of their norm, as in the relaxed form of the
    source. Of a quantized network the weights behind the rounding are pulled, of a point on a curve
    those of the point. Raises BadInput where strength is not above 0, or knee is negative.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Flatten())
    >>> _ = nn.init.ones_(net[0].weight)
    >>> def nothing(model, x, y):
    ...     return torch.zeros(())
    >>> channel_lasso(nothing, 0.5)(net, torch.zeros(1, 1, 1, 1), torch.tensor([0])).item()
    1.0
    """
    if not (0 < strength < inf and 0 <= knee < inf):
        raise BadInput(
            f"strength = {strength:g}, knee = {knee:g}",
            expected="a strength above 0, and a knee of 0 or more",
            fix="pass strength=1e-4",
        )
    return ChannelLasso(loss, strength, knee)


def _filters(model: nn.Module) -> list[Tensor]:
    """Return the filters (channels, values) of each convolution that trains, as the model sees them
    before any rounding.

    Raises BadInput where there are none.
    """
    view = View.of(model)
    found = []
    for path, part in view.net.named_modules():
        if not isinstance(part, _ConvNd):
            continue
        for leaf in ("weight", "parametrizations.weight.original"):
            weight = view.weights.get(f"{path}.{leaf}" if path else leaf)
            if weight is not None and weight.requires_grad:
                found.append(filters(part, weight))
    if not found:
        raise BadInput(
            "a network without convolutions that train",
            expected="filters, the channels of which are to be emptied",
            fix="take the loss without channel_lasso",
        )
    return found
