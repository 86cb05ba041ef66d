"""A curve whose points are shared out over the ranks, for networks that do not fit one device.

The network under the curve is shared out (`isthmus.training.sharding`), and the control points as
its weights are. A point is put into it part by part, with no collective; its gradient comes back as
the gradient of each bend, times the bend's coefficient. All ranks train the same point of a step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from isthmus.models.forward import Wrapper, prepared_pass
from isthmus.runs.processes import gathered
from isthmus.training.sharding import as_shared, reshard, sharded_copy, whole


class SharedPoint(Wrapper):
    """The network at one t of a curve that is shared out. `squared_norm` is that of its trainable
    weights; its gradient is taken by the curve.
    """

    curve: SharedCurve

    def __init__(self, curve: SharedCurve, t: float, squared_norm: Tensor) -> None:
        super().__init__()
        self.__dict__["curve"] = curve  # whose parameters are not the point's
        self.t, self.squared_norm = t, squared_norm
        self.training = curve.network.training

    @property
    def inner(self) -> nn.Module:
        """The network that is called."""
        return self.curve.network

    def train(self, mode: bool = True) -> SharedPoint:
        """Set the mode of the network, in which it has buffers of its own."""
        super().train(mode)
        self.curve.network.train(mode)
        self.curve.put_buffers(self.t)
        return self

    def forward(self, x: Tensor) -> Any:
        """Return the network's outputs."""
        return prepared_pass(self.inner, self.inner, x)


class SharedCurve(Wrapper):
    """What is trained in the place of a curve: its bends, shared out as the network's parameters.

    `at(t)` is that of the curve; `after_backward` moves a point's gradient to the bends.
    """

    curve: Any  # a Curve, whose file imports this one
    network: nn.Module

    def __init__(self, curve: Any, images: Tensor) -> None:
        super().__init__()
        network = sharded_copy(curve.export(0.0), images)
        self.__dict__.update(curve=curve, network=network)
        named: dict[str, Any] = dict(network.named_parameters())
        self._moving = [named[name] for name in curve._moving.names]
        self._frozen = [named[name] for name in curve._frozen.names]
        self._ends = [self._parts(end, moving=True) for end in curve.ends]
        self._frozen_ends = [self._parts(end, moving=False) for end in curve.frozen_ends]
        self.bends = nn.ParameterList(
            nn.Parameter(part) for bend in curve.bends for part in self._parts(bend, moving=True)
        )
        self._point: tuple[list[float], Tensor] | None = None

    def _parts(self, flat: Tensor, *, moving: bool) -> list[Any]:
        """Return a flat control point as the network's parameters are shared out."""
        layout = self.curve._moving if moving else self.curve._frozen
        held = self._moving if moving else self._frozen
        cut = layout.cut(flat.detach())
        dtype = self.curve.bends.dtype
        return [as_shared(part.to(dtype), p).clone() for part, p in zip(cut, held, strict=True)]

    @property
    def inner(self) -> nn.Module:
        """The network that is called."""
        return self.network

    def train(self, mode: bool = True) -> SharedCurve:
        """Set the mode of the network under the curve."""
        super().train(mode)
        self.network.train(mode)
        return self

    @torch.no_grad()
    def at(self, t: float | Tensor) -> SharedPoint:
        """Return the network at the t of the first rank."""
        t = float(gathered(float(t))[0])
        reshard(self.network)
        shares = self.curve.coefficients(t).tolist()
        count, total = len(self._moving), torch.zeros(())
        for i, p in enumerate(self._moving):
            points = [self._ends[0][i], *list(self.bends)[i::count], self._ends[1][i]]
            theta = torch.zeros_like(points[0].to_local())
            for share, point in zip(shares, points, strict=True):
                theta.add_(point.to_local(), alpha=share)
            p.to_local().copy_(theta)
            total += theta.square().sum().cpu()
        for i, p in enumerate(self._frozen):
            first, last = (ends[i].to_local() for ends in self._frozen_ends)
            p.to_local().copy_(torch.lerp(first, last, t))
        self.put_buffers(t)
        square = torch.stack(gathered(total)).sum().to(self.bends[0].device).requires_grad_()
        self._point = (shares, square)
        return SharedPoint(self, t, square)

    def forward(self, x: Tensor, t: float | Tensor = 0.5) -> Any:
        """Return the outputs of the network at t on x."""
        return self.at(t)(x)

    def put_buffers(self, t: float) -> None:
        """Put the buffers of the nearer end into the network, or in train mode those that move."""
        side = 0 if t <= 0.5 else 1
        held = (self.curve._scratch if self.network.training else self.curve._own)[side]
        parts = dict(self.network.named_modules())
        for name, buffer in held.items():
            place, _, leaf = name.rpartition(".")
            if leaf in parts[place]._buffers:
                parts[place]._buffers[leaf] = buffer

    @torch.no_grad()
    def after_backward(self) -> None:
        """Give every bend its coefficient times the gradient of the point, and of its norm."""
        assert self._point is not None
        done: Any = self.network.after_backward
        done()
        shares, square = self._point
        count, bends = len(self._moving), list(self.bends)
        for i, p in enumerate(self._moving):
            grad, p.grad = p.grad, None
            if square.grad is not None:
                decay = 2 * square.grad * p.detach()
                grad = decay if grad is None else grad + decay
            for share, bend in zip(shares[1:-1], bends[i::count], strict=True):
                bend.grad = None if grad is None else share * grad.to(bend.dtype)


@contextmanager
def sharded_curve(curve: Any, images: Tensor) -> Iterator[SharedCurve]:
    """Run a block with what is trained in a curve's place, and give the curve its bends
    afterward; after an error it has none, since gathering them takes all ranks.
    """
    shared = SharedCurve(curve, images)
    device, count = curve.ends.device, len(curve.bends)
    curve.ends = curve.ends.cpu()
    curve.bends.data = curve.bends.data.new_empty(count, 0)
    yield shared
    parts = [whole(part.detach()).reshape(-1) for part in shared.bends]
    curve.bends.data = torch.cat(parts).view(count, -1)
    curve.ends = curve.ends.to(device)
