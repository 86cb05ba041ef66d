"""Lanczos iteration for many symmetric matrices at once.

Source: Golub and Van Loan, Matrix Computations, section 10.1, with full reorthogonalization.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def lanczos(
    product: Callable[[Tensor], Tensor],
    gradient: Tensor,
    tolerance: float,
    iterations: int,
    *,
    semidefinite: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return of n symmetric matrices (d, d) the largest and smallest eigenvalue, the residual, the
    top eigenvector.

    `product` maps (n, d) to (n, d), one matrix a row. Each row starts at the sum of its direction
    in `gradient` and one random direction that all rows share, and gives the answer of the step at
    which its own residuals are at most `tolerance` times the largest eigenvalue, so no row's answer
    depends on another's. Of matrices known to be `semidefinite` and singular, the smallest one is 0
    and not waited for.
    """
    n, d = gradient.shape
    steps, tiny = min(iterations, d), torch.finfo(torch.float64).tiny
    basis = gradient.new_zeros(n, steps, d)
    tridiagonal = torch.zeros(n, steps, steps, dtype=torch.float64, device=gradient.device)
    generator = torch.Generator().manual_seed(0)
    shared = F.normalize(torch.randn(d, generator=generator, dtype=torch.float64), dim=0).to(
        gradient
    )
    v = F.normalize(F.normalize(gradient, dim=1) + shared, dim=1)
    top, bottom, residual = (
        torch.zeros(n, dtype=torch.float64, device=gradient.device) for _ in range(3)
    )
    weights, done = torch.zeros_like(tridiagonal[:, 0]), torch.zeros_like(top, dtype=torch.bool)
    for k in range(steps):
        basis[:, k] = v
        w, sofar = product(v), basis[:, : k + 1]
        tridiagonal[:, k, k] = (w * v).sum(1).double()
        for _ in range(2):  # once more for what rounding has left
            w = w - ((sofar @ w[:, :, None]).mT @ sofar)[:, 0]
        beta = w.norm(dim=1).double()
        values, s = torch.linalg.eigh(tridiagonal[:, : k + 1, : k + 1])
        ends = s[:, -1, -1:] if semidefinite else s[:, -1, [0, -1]]
        left = beta * ends.abs().amax(1) / values[:, -1].abs().clamp_min(tiny)
        now = ~done
        top[now], residual[now] = values[now, -1], left[now]
        bottom[now] = 0 if semidefinite else values[now, 0]
        weights[now, : k + 1] = s[now, :, -1]
        done |= left <= tolerance
        if bool(done.all()) or k + 1 == steps:
            break
        tridiagonal[:, k, k + 1] = tridiagonal[:, k + 1, k] = beta
        v = F.normalize(w, dim=1)
    return top, bottom, residual, (weights[:, None].to(basis) @ basis)[:, 0]
