"""The networks along a curve, each recalibrated once; see `point` for how."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from isthmus.curves.curve import Curve
from isthmus.curves.point import ENDS, shift_at
from isthmus.data.dataset import Source, as_data
from isthmus.models.batchnorm import layers_with_statistics, recalibrate
from isthmus.models.shift import Shift
from isthmus.runs.devices import Precision
from isthmus.types import Params


class PathNetworks:
    """The ordinary networks along a curve, BatchNorm recalibrated on `data`, each t once.

    Only the recalibrated statistics are stored, a few kilobytes for each t; the weights come from
    the curve whenever a network is built. Where the curve has moved since, the statistics are
    computed again. `precision` is that of the recalibration.

    >>> from isthmus import Bezier, Data
    >>> import torch
    >>> data = Data(torch.rand(8, 1, 2, 2), torch.arange(8) % 2, classes=2)
    >>> ends = [nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(4, 2)) for _ in range(2)]
    >>> networks = PathNetworks(Bezier(*ends), data)
    >>> means = [networks.at(0.5, ends="recalibrated")[0].running_mean for _ in range(2)]
    >>> all(torch.allclose(mean, data.x.mean()) for mean in means), networks.recalibrations
    (True, 1)
    """

    def __init__(self, curve: Curve, data: Source, *, precision: Precision = "fp32") -> None:
        self.curve = curve
        self.data = as_data(data)
        self.precision: Precision = precision
        self.recalibrations = 0
        self._statistics: dict[float, Params] = {}
        self._shifts: list[Shift] = []
        self._version = self._moved()

    def at(self, t: float, *, ends: Literal["own", "recalibrated"] = "own") -> nn.Module:
        """Return the network at t, in eval mode, a new module at every call.

        With ends="own", the networks at t = 0 and t = 1 keep the statistics they came with, and
        those between tend to them; see `network_at`. Raises BadInput where t is outside [0, 1].
        """
        t = float(t)
        if ends == "own" and t in ENDS:
            return self.curve.export(t)
        if self._version != self._moved():
            self._version = self._moved()
            self._statistics.clear()
            self._shifts.clear()
        net = self._recalibrated(t)
        return net if ends == "recalibrated" else self._corrected(net, t)

    def _corrected(self, net: nn.Module, t: float) -> nn.Module:
        if not self._shifts:
            pairs = ((self.curve.export(end), self._recalibrated(end)) for end in ENDS)
            self._shifts = [Shift.between(*pair) for pair in pairs]
        return shift_at(self._shifts, t).apply(net)

    def _recalibrated(self, t: float) -> nn.Module:
        """Return the network at t with the statistics of the data, which are computed once."""
        net = self.curve.export(t)
        if t not in self._statistics:
            recalibrate(net, self.data, precision=self.precision)
            self.recalibrations += 1
            self._statistics[t] = {name: b.clone() for name, b in _statistics_of(net).items()}
        for name, buffer in _statistics_of(net).items():
            buffer.copy_(self._statistics[t][name])
        return net

    def _moved(self) -> tuple[int, ...]:
        """Return what changes whenever the curve's weights are written."""
        tensors = (self.curve.bends, self.curve.ends, self.curve.frozen_ends)
        return tuple(part for tensor in tensors for part in (tensor._version, tensor.data_ptr()))


def _statistics_of(net: nn.Module) -> dict[str, Tensor]:
    """Return the buffers that recalibration replaces, by layer and name."""
    layers = layers_with_statistics(net)
    return {
        f"{i}.{name}": buffer
        for i, layer in enumerate(layers)
        for name, buffer in layer.named_buffers(recurse=False)
    }
