"""Losses `(model, x, y) -> scalar`; training differs in nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isthmus.types import BadInput, Loss, Params
from isthmus.view import View


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the mean cross-entropy of the model's logits, in nats, computed in float32 or better.

    >>> model = nn.Linear(2, 4)
    >>> _ = nn.init.zeros_(model.weight), nn.init.zeros_(model.bias)
    >>> round(cross_entropy(model, torch.ones(3, 2), torch.tensor([0, 1, 2])).item(), 4)  # log 4
    1.3863
    """
    logits = model(x)
    return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), y)


@dataclass(frozen=True)
class SharpnessAware:
    """A loss at the worst weights nearby: what `sharpness_aware` returns. One call costs two passes and gradients."""

    loss: Loss
    rho: float
    adaptive: bool = False

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss at the perturbed weights; its gradient takes the perturbation as constant."""
        view = View.of(model)
        weights = {name: w for name, w in view.weights.items() if w.requires_grad}
        grads = torch.autograd.grad(self.loss(model, x, y), list(weights.values()), allow_unused=True)
        reached = {name: g for name, g in zip(weights, grads, strict=True) if g is not None}
        step = self.ascent({name: weights[name] for name in reached}, reached)
        return self.loss(view.moved(step), x, y)

    @torch.no_grad()
    def ascent(self, weights: Params, grads: Params) -> Params:
        """Return the step of length rho along the gradient; where adaptive, in units of each weight's size."""
        if not self.adaptive:
            scale = self.rho / _norm(grads)
            return {name: scale * g for name, g in grads.items()}
        scaled = {name: weights[name].abs() * g for name, g in grads.items()}
        scale = self.rho / _norm(scaled)
        return {name: scale * weights[name].abs() * g for name, g in scaled.items()}


def _norm(tensors: Params) -> Tensor:
    norms = torch.stack([t.norm() for t in tensors.values()])
    norm: Tensor = norms.norm().clamp_min(torch.finfo(norms.dtype).tiny)
    return norm


def sharpness_aware(loss: Loss = cross_entropy, rho: float = 0.5, *, adaptive: bool = False) -> SharpnessAware:
    """Return the loss max over ||e|| <= rho of loss(w + e), to first order: sharpness-aware minimisation.

    Works on a network and on a point of a curve alike, whose weights theta(t) are perturbed, not its bends. With
    `adaptive`, the ball is that of e / |w|. BatchNorm's running statistics are updated by the unperturbed pass alone.
    Source: Foret et al., ICLR 2021, Eq. 2; Kwon et al., ICML 2021, Eq. 5 (adaptive). Raises BadInput where rho <= 0.

    >>> net = nn.Linear(2, 2)
    >>> x, y = torch.rand(4, 2), torch.tensor([0, 1, 0, 1])
    >>> bool(sharpness_aware(rho=0.1)(net, x, y) > cross_entropy(net, x, y))
    True
    """
    if not rho > 0:
        raise BadInput(f"rho = {rho:g}", expected="a radius above 0", fix="pass rho=0.5, or the plain loss")
    return SharpnessAware(loss, rho, adaptive)
