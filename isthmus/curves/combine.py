"""The weights of a point on a curve: a flat combination of control points, cut into parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from isthmus.data.mapped import gathered
from isthmus.models.forward import device_of
from isthmus.types import Params


@dataclass(frozen=True)
class Layout:
    """How a flat vector is cut into a network's parameters; each tied parameter stands once."""

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    dtypes: tuple[torch.dtype, ...]

    @classmethod
    def of(cls, module: nn.Module, *, trainable: bool) -> Layout:
        """Return the layout of the floating parameters that require gradients, or of the others."""
        params = {
            n: p
            for n, p in module.named_parameters()
            if p.is_floating_point() and p.requires_grad == trainable
        }
        return cls(
            tuple(params),
            tuple(p.shape for p in params.values()),
            tuple(p.dtype for p in params.values()),
        )

    def values(self, module: nn.Module) -> list[Tensor]:
        """Return the module's parameters as vectors, without a copy where they lie in order."""
        params = dict(module.named_parameters())
        return [params[name].detach().reshape(-1) for name in self.names]

    def cut(self, flat: Tensor) -> list[Tensor]:
        """Return views of a flat vector, one of each parameter's shape."""
        parts = flat.split([shape.numel() for shape in self.shapes]) if self.names else ()
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def named(self, parts: Sequence[Tensor]) -> Params:
        """Return what `cut` returned by name, in each parameter's own dtype."""
        typed = zip(self.names, parts, self.dtypes, strict=True)
        return {name: part.to(dtype) for name, part, dtype in typed}


_CHUNK = 2**20
"""How many values are combined at once.

A few operands of this size fit into a CPU's caches, and a launch on a GPU has enough to do."""


IN_MEMORY = 2**24
"""Bytes that the ends of a curve take in memory; larger ones lie in a file that is mapped."""

_NARROW = (torch.float16, torch.bfloat16)


def ends_of(layout: Layout, first: nn.Module, second: nn.Module, dtype: torch.dtype) -> Tensor:
    """Return the parameters of two networks as the rows of a matrix (2, n), for a curve of `dtype`,
    on the device of the first one.

    They are kept as checkpoints store them: in half precision where that holds every value as it
    is. Beyond IN_MEMORY bytes they lie in a file that is mapped, whose pages the system takes back
    when memory is short.
    """
    values = [layout.values(net) for net in (first, second)]
    if not layout.names:
        return torch.empty(2, 0, dtype=dtype)
    parts = [part for side in values for part in side]
    exact = [kind for kind in _NARROW if all(_holds(kind, part) for part in parts)]
    kept = exact[0] if exact else dtype
    device = device_of(first)
    chunks = (chunk.to(device, kept) for part in parts for chunk in part.split(_CHUNK))
    return gathered(chunks, most=IN_MEMORY).view(2, -1)


def _holds(kind: torch.dtype, values: Tensor) -> bool:
    """Return whether a type holds every value as it is."""
    chunks = values.split(_CHUNK)
    return all(torch.equal(chunk.to(kind).to(values.dtype), chunk) for chunk in chunks)


def pieces_of(*matrices: Tensor) -> Iterator[list[Tensor]]:
    """Yield neighboring columns of matrices with as many columns each, as the type of the first."""
    for parts in zip(*(matrix.split(_CHUNK, dim=1) for matrix in matrices), strict=True):
        yield [part.to(matrices[0].dtype) for part in parts]


class Combine(torch.autograd.Function):
    """theta = sum_k c_k P_k, its squared norm, and its cut into parameters, as one node of the
    graph.

    Written out by hand for its cost: with D weights it reads every control point once and writes D
    values on the way there; on the way back it reads the gradients and theta once and writes one
    gradient per bend, weight decay included. Left to autograd, the same steps pass over the weights
    three times as often, into vectors of D values that are fresh memory each time.
    """

    @staticmethod
    def forward(
        bends: Tensor, ends: Tensor, c: tuple[float, ...], layout: Layout
    ) -> tuple[Tensor, ...]:
        """Return theta, its squared norm and its parts, for the coefficients c."""
        theta = torch.empty_like(ends[0], dtype=bends.dtype)
        first, *inner, last = c
        squares = []
        # Sums instead of a matrix product, which autocast would round: weights keep their
        # precision.
        for out, start, end, *middle in zip(
            *(v.split(_CHUNK) for v in (theta, *ends, *bends)), strict=True
        ):
            # a product would round to a narrower type of the ends
            torch.mul(start.to(out.dtype), first, out=out).add_(end.to(out.dtype), alpha=last)
            for share, bend in zip(inner, middle, strict=True):
                out.add_(bend, alpha=share)
            squares.append(out.dot(out))
        return theta, torch.stack(squares).sum(), *layout.cut(theta)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep what the way back needs."""
        _, _, c, ctx.layout = inputs
        ctx.inner = c[1:-1]
        ctx.save_for_backward(output[0])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *given: Tensor | None) -> Any:
        """Return the gradients of the bends; ends and coefficients have none."""
        (theta,) = ctx.saved_tensors
        compose = _traced if torch.is_grad_enabled() else _written
        return compose(ctx.layout, ctx.inner, theta, given), None, None, None


def _written(
    layout: Layout, inner: Sequence[float], theta: Tensor, given: Sequence[Tensor | None]
) -> Tensor:
    """Return the gradient of each bend: its coefficient times that of theta, (bends, n), written in
    place.

    `given` are the gradients of what `Combine` returned: theta, its squared norm, each parameter.
    """
    of_theta, of_square, *of_parts = given
    grads = theta.new_empty(len(inner), len(theta))
    for c, grad in zip(inner, grads, strict=True):
        for out, part in zip(layout.cut(grad), of_parts, strict=True):
            torch.mul(part, c, out=out) if part is not None else out.zero_()
        if of_square is not None:
            grad.addcmul_(theta, of_square, value=2 * c)
        if of_theta is not None:
            grad.add_(of_theta, alpha=c)
    return grads


def _traced(
    layout: Layout, inner: Sequence[float], theta: Tensor, given: Sequence[Tensor | None]
) -> Tensor:
    """Return what `_written` does, by operations that can be differentiated once more."""
    of_theta, of_square, *of_parts = given
    shaped = zip(of_parts, layout.shapes, strict=True)
    parts = [
        part.reshape(-1) if part is not None else theta.new_zeros(shape.numel())
        for part, shape in shaped
    ]
    grad = torch.cat(parts) if parts else torch.zeros_like(theta)
    grad = grad if of_square is None else grad + 2 * of_square * theta
    grad = grad if of_theta is None else grad + of_theta
    return torch.stack([c * grad for c in inner])
