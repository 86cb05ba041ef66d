"""Curves in weight space between two networks of any architecture.

Source: Garipov et al., NeurIPS 2018 (curves and the objective); Zhao et al., ICLR 2020, Eq. 2 and
4.

Where we depart: no network is written a second time. A point of the curve is one flat vector
`theta(t) = sum_k c_k(t) P_k`, cut into the network's own parameters and put under the network with
`torch.func.functional_call`, so every `nn.Module` works. Parameters are combined; buffers and
integer parameters are not: a point carries those of the nearer end until it is recalibrated. Frozen
parameters (`requires_grad=False`) get no bend and move along the straight segment, so what both
ends share stays what it is.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from math import comb
from typing import Any

import torch
from torch import Tensor, nn

from isthmus.curves.combine import Combine, Layout, ends_of, pieces_of
from isthmus.curves.sharded import sharded_curve
from isthmus.models.forward import Wrapper, computing_type, device_of
from isthmus.models.parametrized import parametrized_in
from isthmus.models.view import View, copied, places
from isthmus.runs.wording import counted
from isthmus.types import BadInput, Params


def _uncombined(module: nn.Module, device: torch.device) -> Params:
    """Return copies, on a device, of what no curve combines: buffers and integer parameters."""
    integers = {name: p for name, p in module.named_parameters() if not p.is_floating_point()}
    tensors = {**integers, **dict(module.named_buffers())}
    return {name: tensor.detach().to(device, copy=True) for name, tensor in tensors.items()}


def _parts_of(net: nn.Module) -> dict[str, str]:
    """Return the shape and type of every parameter and buffer, and every parametrization, by
    name.
    """
    named = [*net.named_parameters(), *net.named_buffers()]
    tensors = {name: f"{tuple(tensor.shape)} {tensor.dtype}" for name, tensor in named}
    maps = {each.name: ", ".join(map(repr, each.maps)) for each in parametrized_in(net)}
    return {**tensors, **maps}


def check_same_architecture(start: nn.Module, end: nn.Module) -> None:
    """Raise BadInput where two networks differ in names, shapes or types of their tensors, or in
    the parametrizations that their weights pass through.
    """
    first = _parts_of(start)
    second = _parts_of(end)
    differing = sorted(
        name for name in first.keys() | second.keys() if first.get(name) != second.get(name)
    )
    if differing:
        name = differing[0]
        raise BadInput(
            f"endpoints that differ in {counted(len(differing), 'tensor', 'tensors')}, "
            f"first {name}: "
            f"{first.get(name, 'absent')} at the start, {second.get(name, 'absent')} at the end",
            expected="two networks of one architecture, tied alike, pruned or quantized alike",
            fix="build both with the same model factory",
        )


def check_real(net: nn.Module) -> None:
    """Raise BadInput where a parameter is complex."""
    imaginary = [name for name, p in net.named_parameters() if p.is_complex()]
    if imaginary:
        raise BadInput(
            f"a network with {len(imaginary)} complex parameters, first {imaginary[0]}",
            expected="real ones",
            fix="hold them as torch.view_as_real gives them, and call torch.view_as_complex in "
            "forward",
        )


def check_unwrapped(net: nn.Module) -> None:
    """Raise BadInput where the network is a wrapper that shares batches out."""
    if isinstance(net, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise BadInput(
            f"a network wrapped in {type(net).__name__}",
            expected="the network itself, whose weights the points of a curve are",
            fix="pass net.module",
        )


class Curve(Wrapper):
    """A curve from `start` (t = 0) to `end` (t = 1) whose only parameters are its bends, (bends,
    n_parameters).

    The argument `bends` counts interior control points: 0 is the straight segment, 1 is what the
    papers' code calls num_bends=3. The attribute `bends` holds them. They start on the straight
    segment. Neither network is changed: their values are copied, to the device of `start`.

    Raises BadInput where bends < 0, the architectures differ, a parameter is complex, or there is a
    bend and nothing is trainable.

    >>> start, end = nn.Linear(3, 2), nn.Linear(3, 2)
    >>> curve = Bezier(start, end)
    >>> [tuple(p.shape) for p in curve.parameters()]
    [(1, 8)]
    >>> x = torch.ones(1, 3)
    >>> bool((curve.at(0.0)(x) == start(x)).all() and (curve.at(1.0)(x) == end(x)).all())
    True
    """

    ends: Tensor
    frozen_ends: Tensor
    _net: nn.Module
    _blank: nn.Module

    def __init__(self, start: nn.Module, end: nn.Module, bends: int = 1) -> None:
        super().__init__()
        if bends < 0:
            raise BadInput(
                f"bends = {bends}", expected="0 or more interior control points", fix="pass bends=1"
            )
        check_same_architecture(start, end)
        check_real(start)
        self._moving = Layout.of(start, trainable=True)
        self._frozen = Layout.of(start, trainable=False)
        if bends and not self._moving.names:
            raise BadInput(
                "a network whose parameters are all frozen",
                expected="parameters that require gradients",
                fix="call requires_grad_() on those that the curve may move, or pass bends=0",
            )
        dtype = torch.float32
        for other in self._moving.dtypes + self._frozen.dtypes:
            dtype = torch.promote_types(dtype, other)
        for name, layout in (("ends", self._moving), ("frozen_ends", self._frozen)):
            self.register_buffer(name, ends_of(layout, start, end, dtype), persistent=False)
        empty = torch.empty(bends, self.ends.shape[1], dtype=dtype, device=self.ends.device)
        self.bends = nn.Parameter(empty)
        self.straighten()
        device = device_of(start)
        self._own = [_uncombined(net, device) for net in (start, end)]
        self._scratch = [_uncombined(net, device) for net in (start, end)]
        self._hide(copied(start))
        self.training = start.training

    def _hide(self, net: nn.Module) -> None:
        """Keep the network's forward, out of `parameters()` and `state_dict()`; its weights are
        never read: free them.

        One copy is called; one is never called, so that what a forward pass leaves behind in a
        module stays out of exported networks.
        """
        self._places = places(net)
        self._trainable = {name for name, p in net.named_parameters() if p.requires_grad}
        for p in net.parameters():
            p.requires_grad_(False)
            if p.is_floating_point():
                p.data = p.data.new_empty(0)
        self.__dict__.update(_blank=net, _net=copied(net))

    @abstractmethod
    def coefficients(self, t: float | Tensor) -> Tensor:
        """Return c_0(t) .. c_{bends+1}(t), shape (bends + 2,), float64, summing to 1.

        All that a subclass writes.
        """

    @torch.no_grad()
    def straighten(self) -> None:
        """Put the bends on the straight segment between the ends, at equal distances."""
        count = len(self.bends)
        shares = torch.arange(1, count + 1, dtype=self.bends.dtype, device=self.bends.device)
        for bends, ends in pieces_of(self.bends, self.ends):
            bends.copy_(torch.lerp(ends[:1], ends[1:], shares[:, None] / (count + 1)))

    def _check(self, t: float | Tensor) -> float:
        value = float(t)
        if not 0 <= value <= 1:
            raise BadInput(
                f"t = {value:g}", expected="0 <= t <= 1", fix="pass a point on the curve"
            )
        return value

    def flat(self, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """Return theta(t) as two vectors, (n_trainable,) differentiable in the bends and
        (n_frozen,).

        Raises BadInput where t is outside [0, 1].
        """
        return self._theta(t)[0], self._frozen_at(t)

    def weights(self, t: float | Tensor) -> Params:
        """Return theta(t) by parameter name, differentiable in the bends.

        Raises BadInput where t is outside [0, 1].
        """
        return self._theta(t)[2]

    def _theta(self, t: float | Tensor) -> tuple[Tensor, Tensor, Params]:
        """Return the trainable part of theta(t) flat, its squared norm, and all of theta(t) by
        name.
        """
        c = tuple(self.coefficients(self._check(t)).tolist())
        bends = self.bends if len(self.bends) else self.bends.detach()
        theta, square, *parts = Combine.apply(  # type: ignore[no-untyped-call]
            bends,
            self.ends,
            c,
            self._moving,
        )
        frozen = self._frozen.named(self._frozen.cut(self._frozen_at(t)))
        return theta, square, {**self._moving.named(parts), **frozen}

    def _frozen_at(self, t: float | Tensor) -> Tensor:
        first, second = self.frozen_ends.to(self.bends.dtype)
        return torch.lerp(first, second, self._check(t))

    def uncombined(self, t: float | Tensor) -> Params:
        """Return the buffers and integer parameters of the end nearer to t, which no point of a
        curve combines.
        """
        return self._own[0] if self._check(t) <= 0.5 else self._own[1]

    @property
    def computing_type(self) -> torch.dtype:
        """The floating-point type of the two networks; the curve's own parameters may be wider."""
        return computing_type(self._net)

    def at(self, t: float | Tensor) -> Point:
        """Return the network at t as a live view: its outputs are differentiable in the bends.

        For training and attacks. In eval mode its buffers are those of the nearer end, so at t = 0
        and t = 1 it is that endpoint; in train mode they are copies of these, which training may
        change. Raises BadInput where t is outside [0, 1].
        """
        return Point(self, t)

    def export(self, t: float | Tensor) -> nn.Module:
        """Return the network at t, detached and on its own, in eval mode, with the state-dict keys
        of the endpoints.

        Its buffers are those of the nearer end: recalibrate BatchNorm before you measure it.
        Raises BadInput where t is outside [0, 1].
        """
        net = copied(self._blank)
        with torch.no_grad():
            values = {**self.weights(t), **self.uncombined(t)}
            tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
            for name, tensor in tensors.items():
                tensor.data = values[name].detach().clone()
        for name, p in net.named_parameters():
            p.requires_grad_(name in self._trainable)
        return net.eval()

    def arc_length(self, points: int = 201) -> float:
        """Return the Euclidean length of the curve, by chords between equally spaced t.

        All chords come from the Gram matrix of the control points: one pass over the weights,
        however many points.
        """
        return float(self._chords(torch.linspace(0, 1, points, dtype=torch.float64)).sum())

    def distance(self, t: float | Tensor) -> float:
        """Return the Euclidean distance in weight space between the start and the point at t."""
        return float(self._chords(torch.tensor([0.0, self._check(t)], dtype=torch.float64))[0])

    def _chords(self, ts: Tensor) -> Tensor:
        with torch.no_grad():
            gram = torch.zeros(len(self.bends) + 1, len(self.bends) + 1, dtype=torch.float64)
            for bends, ends in pieces_of(self.bends, self.ends):
                relative = torch.cat([bends, ends[1:]]).double() - ends[:1].double()
                gram += (relative @ relative.T).cpu()
            frozen = self.frozen_ends.double().diff(dim=0).square().sum().cpu()
        steps = torch.stack([self.coefficients(t) for t in ts]).diff(dim=0)[:, 1:]
        squared = torch.einsum("ij,jk,ik->i", steps, gram, steps) + frozen * ts.diff().square()
        return squared.clamp_min(0).sqrt()

    def sharded(self, images: Tensor) -> AbstractContextManager[nn.Module]:
        """Return the block in which what is trained in the curve's place is shared out over the
        ranks.
        """
        return sharded_curve(self, images)

    def forward(self, x: Tensor, t: float | Tensor = 0.5) -> Any:
        """Return the outputs of the network at t on x."""
        return self.at(t)(x)

    @property
    def inner(self) -> nn.Module:
        """The network that is called."""
        return self._net

    def train(self, mode: bool = True) -> Curve:
        """Set the mode of the network under the curve, as of any module."""
        super().train(mode)
        self._net.train(mode)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Curve:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for net in (self._blank, self._net):
            net._apply(fn)
        for sides in (self._own, self._scratch):
            sides[:] = [{name: fn(tensor) for name, tensor in side.items()} for side in sides]
        return self


class Bezier(Curve):
    """Bezier curve of degree bends + 1: c_k(t) = C(K, k) t^k (1 - t)^(K - k), K = bends + 1 (Zhao
    et al., Eq. 4).
    """

    def coefficients(self, t: float | Tensor) -> Tensor:
        """Return the Bernstein polynomials at t, shape (bends + 2,), float64."""
        t = float(t)
        degree = len(self.bends) + 1
        return torch.tensor(
            [comb(degree, k) * t**k * (1 - t) ** (degree - k) for k in range(degree + 1)],
            dtype=torch.float64,
        )


class PolyChain(Curve):
    """Polygonal chain with corners at t = k / K: c_k(t) = max(0, 1 - |t K - k|), K = bends + 1."""

    def coefficients(self, t: float | Tensor) -> Tensor:
        """Return the two weights of the segment that holds t, zeros elsewhere, shape (bends + 2,),
        float64.
        """
        last = len(self.bends) + 1
        return (
            1 - (float(t) * last - torch.arange(last + 1, dtype=torch.float64)).abs()
        ).clamp_min(0)


class Point(View):
    """The network at one t of a curve, as a live view; made by `Curve.at`.

    `theta` is the flat vector of its trainable weights, shared by every forward pass through this
    view; `squared_norm` is theta's, whose gradient costs next to nothing beside that of the
    outputs.
    """

    def __init__(self, curve: Curve, t: float | Tensor) -> None:
        theta, squared_norm, weights = curve._theta(t)
        scratch = curve._scratch[0 if float(t) <= 0.5 else 1]
        super().__init__(curve._net, weights, curve.uncombined(t), scratch, placed=curve._places)
        self.theta, self.squared_norm = theta, squared_norm
