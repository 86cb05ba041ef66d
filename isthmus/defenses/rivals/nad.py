"""NAD: distil where a fine-tuned copy looks into the tampered network.

Source: Li et al., Neural Attention Distillation, ICLR 2021, section 3. The teacher is the tampered
network, fine-tuned; the student starts from the tampered network and is trained on cross-entropy
plus, at the end of each stage, the squared distance of the two attention maps (sum over channels of
squared activations, divided by its norm).

Where we depart from the paper's code: the layers are detected, not named: the last convolution, or
block of them, at each resolution. One weight serves all of them (the code has 500, 1000, 1000).
Half of the budget trains the teacher, as in the paper's ten epochs each; BatchNorm of both is
recalibrated on the bonafide samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isthmus.data.dataset import Source, as_data
from isthmus.defenses.spending import Trained
from isthmus.models.batchnorm import recalibrate
from isthmus.models.forward import device_of, forward_pass, outputs
from isthmus.models.view import copied
from isthmus.runs.wording import suggestion
from isthmus.training.loop import fit
from isthmus.training.losses import cross_entropy
from isthmus.types import BadInput

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d


@dataclass(frozen=True)
class NAD(Trained):
    """Neural attention distillation. `weight` is that of the distance of attention maps, a mean
    over their pixels.

    `layers` names the modules whose outputs, (n, channels, height, width), are compared; None finds
    them. Budget: half of the gradient evaluations train the teacher, half the student, whose steps
    also take a forward pass of the teacher (a third more time, not counted).
    """

    weight: float = 1000.0
    layers: Sequence[str] | None = None

    def __call__(self, tampered: nn.Module, bonafide: Source) -> nn.Module:
        """Return the student. Raises BadInput where there are no feature maps, or a layer is
        unknown or has none.
        """
        data = as_data(bonafide)
        layers = self._layers(tampered, data.x)
        half = self.training.replace(steps=self.training.steps_costing(2))
        teacher = copied(tampered)
        fit(teacher, data, training=half, progress="training the teacher")
        recalibrate(teacher, data)
        student = copied(tampered)
        distillation = _Distillation(teacher, layers, self.weight)
        fit(student, data, distillation, training=half, progress="distilling")
        return recalibrate(student, data)

    def _layers(self, net: nn.Module, x: Tensor) -> tuple[str, ...]:
        if self.layers is None:
            return stages(net, x)
        known = feature_maps(net, x)
        for name in self.layers:
            if name not in known:
                raise BadInput(
                    f"layer {name!r}",
                    expected="a module that gives feature maps",
                    fix=suggestion(name, known),
                )
        return tuple(self.layers)


def attention(features: Tensor) -> Tensor:
    """Return where features (n, channels, ...) are large: (n, pixels), each row of length one."""
    return F.normalize(features.float().square().sum(1).flatten(1))


def feature_maps(net: nn.Module, x: Tensor) -> dict[str, tuple[int, ...]]:
    """Return the size of each module's feature maps, (height, width), in the order in which the
    modules finish.

    A module gives feature maps where it holds a convolution and returns (n, channels, height,
    width) with more than one pixel; a volume has one size more.
    """
    sizes: dict[str, tuple[int, ...]] = {}

    def seen(name: str, out: object) -> None:
        if isinstance(out, Tensor) and out.ndim >= 4 and out[0, 0].numel() > 1:
            sizes.pop(name, None)  # a module that runs twice counts when it last finishes
            sizes[name] = tuple(out.shape[2:])

    hooks = [
        part.register_forward_hook(lambda _, __, out, name=name: seen(name, out))
        for name, part in net.named_modules()
        if name and any(isinstance(inner, Conv) for inner in part.modules())
    ]
    try:
        outputs(net, x[:2])
    finally:
        for hook in hooks:
            hook.remove()
    return sizes


def stages(net: nn.Module, x: Tensor) -> tuple[str, ...]:
    """Return the name of the last module that gives feature maps of each size, in order.

    Raises BadInput where none does.
    """
    last = {size: name for name, size in feature_maps(net, x).items()}
    if not last:
        raise BadInput(
            "a network without feature maps",
            expected="convolutions whose outputs (n, channels, height, width) have several pixels",
            fix="use FineTune or FTSAM, which take any network",
        )
    return tuple(last.values())


@dataclass(frozen=True, eq=False)
class _Distillation:
    """Cross-entropy plus the weighted distance of the student's attention from the teacher's."""

    teacher: nn.Module = field(repr=False)
    layers: tuple[str, ...]
    weight: float

    def __call__(self, student: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        self.teacher.to(device_of(student))
        with torch.no_grad(), _watched(self.teacher, self.layers) as wanted:
            forward_pass(self.teacher, x)
        with _watched(student, self.layers) as own:
            value = cross_entropy(student, x, y)
        distances = [F.mse_loss(own[name], wanted[name]) for name in self.layers]
        return value + self.weight * torch.stack(distances).sum()


@contextmanager
def _watched(net: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Give the attention maps of the layers, by name, once the network has run within the block."""
    maps: dict[str, Tensor] = {}

    def keep(name: str, out: Tensor) -> None:
        maps[name] = attention(out)

    hooks = [
        net.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: keep(name, out))
        for name in layers
    ]
    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()
