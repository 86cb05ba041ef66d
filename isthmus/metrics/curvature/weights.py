"""The largest eigenvalue of the Hessian of the mean loss in the weights, by ARPACK."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from isthmus.models.forward import as_input, device_of, eval_mode, pass_size, takes_channels_last
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
    view, device = View.of(model), device_of(model)
    weights = {
        name: w.detach().clone().requires_grad_()
        for name, w in view.weights.items()
        if w.is_floating_point()
    }
    sizes = [w.numel() for w in weights.values()]
    if sum(sizes) < 2:
        raise BadInput(
            f"{sum(sizes)} trainable weights",
            expected="two or more",
            fix="call requires_grad_() on some",
        )
    live = View(view.net, {**view.weights, **weights}, view.kept, view.scratch, view.placed)
    chosen, batch = list(weights.values()), batch_size or pass_size(x, device, gradients=True)
    last = takes_channels_last(view.net if not isinstance(model, View) else live, x)

    def gradients(rows: slice) -> list[Tensor]:
        part = as_input(x[rows], device, channels_last=last)
        loss = F.cross_entropy(live(part), y[rows].to(device), reduction="sum") / len(x)
        return list(torch.autograd.grad(loss, chosen, create_graph=True, materialize_grads=True))

    def product(vector: np.ndarray) -> np.ndarray:
        flat = torch.as_tensor(vector.reshape(-1)).to(chosen[0])
        v = [part.view_as(w).to(w) for part, w in zip(flat.split(sizes), chosen, strict=True)]
        total = torch.zeros(sum(sizes), dtype=torch.float64)
        for graph in graphs or (gradients(slice(i, i + batch)) for i in range(0, len(x), batch)):
            along = torch.stack([(g * part).sum() for g, part in zip(graph, v, strict=True)]).sum()
            products = torch.autograd.grad(
                along, chosen, retain_graph=bool(graphs), materialize_grads=True
            )
            total += torch.cat([part.detach().double().cpu().reshape(-1) for part in products])
        return total.numpy()

    with eval_mode(view.net), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        graphs = (
            [gradients(slice(0, len(x)))] if len(x) <= batch else []
        )  # one that fits is recorded once
        operator = LinearOperator((sum(sizes), sum(sizes)), matvec=product, dtype=np.float64)
        start = np.random.default_rng(0).standard_normal(sum(sizes))
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
