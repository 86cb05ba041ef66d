"""Losses `(model, x, y) -> scalar`; training differs in nothing else."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the mean cross-entropy of the model's logits, in nats, computed in float32 or better.

    >>> model = nn.Linear(2, 4)
    >>> _ = nn.init.zeros_(model.weight), nn.init.zeros_(model.bias)
    >>> round(cross_entropy(model, torch.ones(3, 2), torch.tensor([0, 1, 2])).item(), 4)  # log 4
    1.3863
    """
    logits = model(x)
    return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), y)
