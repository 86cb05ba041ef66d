"""Passes of data through a network: outputs, attacked inputs, curvature; each once in `Passes`."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from isthmus.data.dataset import Data
from isthmus.data.mapped import gathered
from isthmus.metrics.curvature.inputs import InputHessian, input_hessian
from isthmus.metrics.health import Health
from isthmus.models.forward import (
    as_input,
    computing_type,
    device_of,
    laid_out,
    network_under,
    outputs,
    pass_size,
    reading,
)
from isthmus.models.memory import in_passes
from isthmus.models.noise import DrawnLogits, drawn_logits, is_random, seeded_draws
from isthmus.runs.devices import Precision
from isthmus.runs.files import write_atomically
from isthmus.runs.identity import identity_of, sha256_of
from isthmus.runs.progress import gauged
from isthmus.types import Attack, BadInput


class Passes:
    """What is known of one network: its outputs on data, the data under attacks, the curvature.

    Each is computed when a metric first wants it, and serves every metric that is given the same
    `Passes`. The same data or attack means the same object; outputs are shared by all data with the
    same tensor of images, whatever their labels. The network has to stay as it is meanwhile.
    """

    def __init__(self, model: nn.Module, *, folder: str | Path | None = None) -> None:
        self.model = model
        self.folder = folder
        self._logits: dict[tuple[Tensor, int, Precision], Tensor] = {}  # a tensor is its own key
        self._curvature: dict[Data, InputHessian] = {}
        # an attack need not be hashable
        self._attacked: list[tuple[Data, Attack, Data, Watch | None]] = []
        self._drawn: dict[Data, DrawnLogits] = {}
        self._random: bool | None = None

    def logits(self, data: Data, precision: Precision = "fp32") -> Tensor:
        """Return the network's outputs on the data. Raises BadInput as the function does."""
        key = (data.x, data.num_classes, precision)
        if key not in self._logits:
            self._logits[key] = logits(self.model, data, precision)
        return self._logits[key]

    def random(self, data: Data) -> bool:
        """Return whether two passes of the network over the same samples differ; asked once."""
        if self._random is None:
            check_fits(self.model, data)
            device = device_of(self.model)
            self._random = is_random(self.model, as_input(data.x[:8], device, channels_last=False))
        return self._random

    def answers(self, data: Data) -> DrawnLogits:
        """Return the outputs that count: of a random network the mean logits over draws, which the
        same draws give every time.
        """
        if data not in self._drawn:
            random = self.random(data)
            decided = torch.zeros(len(data), dtype=torch.bool)
            once = None if random else DrawnLogits(self.logits(data), decided, 1)
            self._drawn[data] = once or _drawn(self.model, data)
        return self._drawn[data]

    def answers_afresh(self, data: Data) -> DrawnLogits:
        """Return what `answers` does, for samples that nobody asks about again."""
        if self.random(data):
            return _drawn(self.model, data)
        return DrawnLogits(logits(self.model, data), torch.zeros(len(data), dtype=torch.bool), 1)

    def attacked(self, data: Data, attack: Attack) -> Data:
        """Return the data under the attack. Raises BadInput as the function does."""
        return self.watched(data, attack)[0]

    def watched(self, data: Data, attack: Attack) -> tuple[Data, Watch | None]:
        """Return the data under the attack, and what watched it, None where the attack does not say
        what it does. Raises BadInput as `attacked` does.
        """
        for clean, method, moved, watch in self._attacked:
            if clean is data and method is attack:
                return moved, watch
        moved, watch = attacked_and_watched(self.model, data, attack, folder=self.folder)
        self._attacked.append((data, attack, moved, watch))
        return moved, watch

    def curvature(self, data: Data) -> InputHessian:
        """Return the derivatives of the loss in each image. Raises BadInput as `input_hessian`."""
        if data not in self._curvature:
            check_fits(self.model, data)
            self._curvature[data] = input_hessian(self.model, data.x, data.y)
        return self._curvature[data]


class Watch(Protocol):
    """What watched an attack, and says how far its answer can be trusted."""

    def state(self) -> dict[str, Tensor]:
        """Return all that is remembered as tensors by name."""

    def add(self, state: Mapping[str, Tensor]) -> None:
        """Remember what another watch's `state` holds as well."""

    def health(self, passes: Passes, clean: Data, moved: Data) -> Health:
        """Return the health of the attack that made `moved` of `clean` on the passes' network."""


class Watchable(Protocol):
    """An attack that can be watched: `remembering()` is a block that remembers what it does."""

    def remembering(self) -> AbstractContextManager[Watch]:
        """Return the block."""


@contextmanager
def watched(attack: Attack) -> Iterator[Watch | None]:
    """Run a block that remembers what the attack does; yield None where it cannot be watched."""
    remembering = getattr(attack, "remembering", None)
    if remembering is None:
        yield None
        return
    watchable: Watchable = attack  # type: ignore[assignment]
    with watchable.remembering() as watch:
        yield watch


class NotFinite(BadInput):
    """A network whose outputs are no numbers: its weights are too large, or none themselves."""


def logits(
    model: nn.Module, data: Data, precision: Precision = "fp32", *, whole: Data | None = None
) -> Tensor:
    """Return the network's outputs on the data, (n, classes) float32 on the CPU, in eval mode.

    `whole` is the set that the data are a part of, so that a refusal can speak of its labels.
    Raises BadInput where the network cannot read the images, or the outputs are not (n, classes) or
    not finite. A network that draws from torch's generators draws the same each time.
    """
    with reading(data.x), seeded_draws(0, device_of(model)):
        out = outputs(model, data.x, precision=precision)
    _check_logits(out, data, whole or data)
    return out


def _drawn(model: nn.Module, data: Data) -> DrawnLogits:
    """Return the mean logits of a random network over draws of its own, in batches."""
    device = device_of(model)
    with seeded_draws(0, device):
        parts = [
            drawn_logits(model, as_input(x, device, channels_last=False), y.to(device))
            for x, y in _batches(data, device)
        ]
    return DrawnLogits(
        torch.cat([part.logits.cpu() for part in parts]),
        torch.cat([part.undecided.cpu() for part in parts]),
        parts[0].draws,
    )


def _check_logits(out: Tensor, data: Data, whole: Data) -> None:
    if out.shape != (len(data), data.num_classes):
        raise BadInput(
            f"outputs of shape {tuple(out.shape)}",
            expected=f"({len(data)}, {data.num_classes}): one logit per class of the data",
            fix=_class_advice(out, whole),
        )
    if not torch.isfinite(out).all():
        raise NotFinite(
            "outputs that are NaN or infinite",
            expected="finite logits",
            fix="check the weights and inputs",
        )


def _class_advice(out: Tensor, data: Data) -> str:
    """Return the way out where network and data differ in their number of classes."""
    build = f"build the network for these classes (--classes {data.num_classes})"
    if out.ndim == 2 and out.shape[1] == data.num_classes - 1 and int(data.y.min()) > 0:
        return "no label is 0: subtract 1 from labels that start at 1"
    if out.ndim == 2 and out.shape[1] > data.num_classes:
        return (
            f"where some classes have no sample, say that there are {out.shape[1]}: an entry "
            f"`classes` in the .npz, classes= in Python; or {build}"
        )
    return f"{build}, or relabel the data"


def check_fits(model: nn.Module, data: Data) -> None:
    """Raise BadInput where the network cannot read such images or has other classes than the data.

    Reads two samples, before long work on all of them.
    """
    logits(model, data[:2], whole=data)


def attacked(
    model: nn.Module, data: Data, attack: Attack, *, folder: str | Path | None = None
) -> Data:
    """Return the data with the attacked inputs in place of the images, in batches sized to memory.

    With `folder`, each batch is stored there when it is done, and is not attacked again: a run that
    was killed goes on where it stopped, to the same result. Raises BadInput where the network does
    not fit the data, the attack returns inputs of another shape or outside [0, 1], or draws anew
    each time and is to be stored.
    """
    return attacked_and_watched(model, data, attack, folder=folder)[0]


def attacked_and_watched(
    model: nn.Module, data: Data, attack: Attack, *, folder: str | Path | None = None
) -> tuple[Data, Watch | None]:
    """Return the attacked data, and what watched the attack, None where it cannot be watched.

    Raises BadInput as `attacked` does.
    """
    check_fits(model, data)
    files = _files(model, data, attack, folder)
    cost = getattr(attack, "gradients", 0)
    with (
        laid_out(model, data.x) as channels_last,
        watched(attack) as whole,
        gauged("attacking samples", len(data), cost) as gauge,
    ):

        def moved() -> Iterator[Tensor]:
            done = 0
            for (x, y), file in zip(_batches(data, device_of(model)), files, strict=False):
                state = _stored(file)
                if state is None:
                    state = _attacked_state(model, x, y, attack, channels_last)
                    _store(file, state)
                points = state.pop("points")
                if whole is not None:
                    whole.add(state)
                done += len(x)
                gauge.reach(done)
                yield points

        return Data(gathered(moved()), data.y, data.classes), whole


def _files(
    model: nn.Module, data: Data, attack: Attack, folder: str | Path | None
) -> Iterator[Path | None]:
    """Yield a file for each batch, named by all that its content depends on; None without a folder.

    Raises BadInput where the attack gives other points each time.
    """
    if folder is None:
        yield from itertools.repeat(None)
        return
    if _unseeded(attack):
        raise BadInput(
            "an attack without a seed, to be stored", expected="a seed", fix="pass seed=0"
        )
    weights = sha256_of(*model.state_dict().values())
    text = f"{weights} {data.sha256} {identity_of(attack)}"
    mark = hashlib.sha256(text.encode()).hexdigest()[:16]
    yield from (Path(folder) / f"{mark}-{i:06d}.safetensors" for i in itertools.count())


def _unseeded(attack: Any) -> bool:
    """Return whether an attack, or one of those it runs, draws other numbers each time."""
    parts = [*getattr(attack, "attacks", ()), *filter(None, [getattr(attack, "attack", None)])]
    if parts:
        return any(map(_unseeded, parts))
    return bool(getattr(attack, "random", False)) and getattr(attack, "seed", 0) is None


def _stored(file: Path | None) -> dict[str, Tensor] | None:
    return load_file(file) if file is not None and file.exists() else None


def _store(file: Path | None, state: Mapping[str, Tensor]) -> None:
    if file is not None:
        tensors = {name: tensor.contiguous() for name, tensor in state.items()}
        write_atomically(file, lambda temporary: save_file(tensors, temporary))


def _batches(data: Data, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    size = pass_size(data.x, device, gradients=True)
    return zip(data.x.split(size), data.y.split(size), strict=True)


def _attacked_state(
    model: nn.Module, x: Tensor, y: Tensor, attack: Attack, channels_last: bool
) -> dict[str, Tensor]:
    """Return the attacked points of a batch, and what watched the attack, as tensors by name.

    A batch is attacked in halves where memory runs out, each with draws of its own.
    """

    def attacked_rows(rows: slice) -> tuple[Tensor, Watch | None]:
        with watched(attack) as watch:
            points = _attacked_batch(model, x[rows], y[rows], attack, channels_last)
        return points, watch

    parts = in_passes(model, attacked_rows, len(x), len(x))
    whole = parts[0][1]
    state = {"points": torch.cat([points for points, _ in parts])}
    if whole is None:
        return state
    for _, watch in parts[1:]:
        assert watch is not None
        whole.add(watch.state())
    return {**state, **whole.state()}


def _attacked_batch(
    model: nn.Module, x: Tensor, y: Tensor, attack: Attack, channels_last: bool
) -> Tensor:
    device = device_of(model)
    x = as_input(x, device, channels_last=channels_last)
    if x.dtype == torch.float64 != computing_type(network_under(model)):
        x = x.float()  # attacks that the user wrote call the network by themselves
    moved = attack(model, x, y.to(device)).detach().cpu()
    if moved.shape != x.shape:
        raise BadInput(
            f"attacked inputs of shape {tuple(moved.shape)}",
            expected=f"{tuple(x.shape)}",
            fix="return the points in the shape of x from the attack",
        )
    return moved
