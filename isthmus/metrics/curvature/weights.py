"""The largest eigenvalue of the Hessian of the mean loss in the weights, by ARPACK."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from isthmus.models.forward import (
    as_input,
    device_of,
    eval_mode,
    logits_of,
    pass_size,
    takes_channels_last,
)
from isthmus.models.view import View
from isthmus.runs.wording import first_line
from isthmus.types import BadInput


def weight_hessian_top(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    tolerance: float = 1e-2,
    batch_size: int | None = None,
) -> float:
    """Return the largest eigenvalue of the Hessian of the mean cross-entropy in the trainable
    weights.

    By ARPACK, to the relative accuracy `tolerance`, on products of double backward passes in
    batches sized to memory; eval mode, so BatchNorm stays what it is. x (n, c, h, w) uint8 or in
    [0, 1], y (n,). Raises BadInput where fewer than two weights train, or ARPACK does not converge.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> weight_hessian_top(net, torch.rand(8, 1, 2, 2), torch.arange(8) % 3) > 0
    True
    """
    view = View.of(model)
    weights = {
        name: w.detach().clone().requires_grad_()
        for name, w in view.weights.items()
        if w.is_floating_point()
    }
    count = sum(w.numel() for w in weights.values())
    if count < 2:
        raise BadInput(
            f"{count} trainable weights",
            expected="two or more",
            fix="call requires_grad_() on some",
        )
    live = View(view.net, {**view.weights, **weights}, view.kept, view.scratch, view.placed)
    batch = batch_size or pass_size(x, device_of(model), gradients=True)
    last = takes_channels_last(view.net if not isinstance(model, View) else live, x)
    with eval_mode(view.net), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        hessian = _Hessian(live, list(weights.values()), x, y, batch, last)
        return _largest(hessian, count, tolerance)


class _Hessian:
    """The Hessian of the mean loss in the weights, as its products with vectors."""

    def __init__(
        self, net: View, weights: list[Tensor], x: Tensor, y: Tensor, batch: int, last: bool
    ) -> None:
        self.net = net
        self.weights = weights
        self.x = x
        self.y = y
        self.channels_last = last
        self.batches = [slice(i, i + batch) for i in range(0, len(x), batch)]
        # One batch that holds all samples is recorded once, and serves every product.
        self.recorded = self._gradients(self.batches[0]) if len(self.batches) == 1 else None

    def _gradients(self, rows: slice) -> list[Tensor]:
        """Return the gradients of some samples' share of the loss, with their graph."""
        device = self.weights[0].device
        part = as_input(self.x[rows], device, channels_last=self.channels_last)
        labels = self.y[rows].to(device)
        logits = logits_of(self.net(part))
        loss = F.cross_entropy(logits, labels, reduction="sum") / len(self.x)
        return list(
            torch.autograd.grad(loss, self.weights, create_graph=True, materialize_grads=True)
        )

    def __call__(self, vector: np.ndarray) -> np.ndarray:
        """Return the product with a vector of as many numbers as there are weights."""
        flat = torch.as_tensor(vector.reshape(-1)).to(self.weights[0])
        sizes = [w.numel() for w in self.weights]
        along = [
            part.view_as(w).to(w) for part, w in zip(flat.split(sizes), self.weights, strict=True)
        ]
        total = torch.zeros(len(flat), dtype=torch.float64)
        for rows in self.batches:
            total += self._share(self.recorded or self._gradients(rows), along)
        return total.numpy()

    def _share(self, gradients: list[Tensor], along: list[Tensor]) -> Tensor:
        """Return the derivative of the gradients along a direction, flat, in float64 on the CPU."""
        slopes = [(g * part).sum() for g, part in zip(gradients, along, strict=True)]
        products = torch.autograd.grad(
            torch.stack(slopes).sum(),
            self.weights,
            retain_graph=self.recorded is not None,
            materialize_grads=True,
        )
        return torch.cat([part.detach().double().cpu().reshape(-1) for part in products])


def _largest(hessian: _Hessian, count: int, tolerance: float) -> float:
    """Return the largest eigenvalue by ARPACK. Raises BadInput where it does not converge."""
    operator = LinearOperator((count, count), matvec=hessian, dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(count)
    try:
        values = eigsh(
            operator, k=1, which="LA", tol=tolerance, v0=start, return_eigenvectors=False
        )
    except ArpackError as error:
        raise BadInput(
            f"a Hessian whose top eigenvalue did not converge ({first_line(error)})",
            expected="finite gradients, and convergence within ten iterations per weight",
            fix="check that weights and inputs are finite, or raise tolerance",
        ) from error
    return float(values[0])
