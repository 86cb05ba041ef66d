"""What scores are measured on: pixels, or the outputs of named layers, all in one pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from isthmus.models.forward import (
    as_input,
    device_of,
    eval_mode,
    forward_pass,
    logits_in,
    network_under,
    pass_size,
    reading,
)
from isthmus.models.memory import in_passes
from isthmus.runs.devices import autocast
from isthmus.runs.notices import notice
from isthmus.runs.wording import suggestion
from isthmus.types import BadInput


def check_layers(model: nn.Module, layers: tuple[str, ...]) -> None:
    """Raise BadInput where the network has no layer of a name; says which come close.

    A module that stands at several places has a name for each.
    """
    modules = network_under(model).named_modules(remove_duplicate=False)
    names = [name for name, _ in modules if name]
    for layer in layers:
        if layer not in names:
            raise BadInput(
                f"layer {layer!r}",
                expected=f"the name of one of {len(names)} modules of the network",
                fix=suggestion(str(layer), names),
            )


def pixels(x: Tensor) -> Tensor:
    """Return images (n, c, h, w), bytes or floats, as rows of floats in [0, 1]."""
    return as_input(x, x.device, channels_last=False).flatten(1)


@dataclass(frozen=True, eq=False)
class Pass:
    """What one pass shows: the features (n, d) of each layer, the names of the layers in the order
    in which they ran, and the logits (n, classes), where the network returns any.
    """

    features: tuple[Tensor, ...]
    order: tuple[str, ...]
    logits: Tensor | None

    def cpu(self) -> Pass:
        """Return the same on the CPU."""
        logits = None if self.logits is None else self.logits.cpu()
        return Pass(tuple(rows.cpu() for rows in self.features), self.order, logits)

    @classmethod
    def joined(cls, passes: list[Pass]) -> Pass:
        """Return what passes of one network show, one after another; logits where all have them."""
        features = zip(*(each.features for each in passes), strict=True)
        logits = [each.logits for each in passes if each.logits is not None]
        return cls(
            tuple(torch.cat(rows) for rows in features),
            passes[0].order,
            torch.cat(logits) if len(logits) == len(passes) else None,
        )


def layer_pass(model: nn.Module, x: Tensor, layers: tuple[str, ...]) -> Pass:
    """Return the outputs of the layers at images x (n, c, h, w), each (n, d), their order, and the
    logits, from one pass in eval mode.

    Maps (n, d, h, w) are averaged over their positions, sequences (n, length, d) over their length:
    channels come first in maps, last in sequences. The graph is recorded where gradients are on.
    Raises BadInput where the network cannot read the images, or a layer does not run, or returns
    something else, or numbers that are not finite.
    """
    device = device_of(model)
    given = as_input(x, device, channels_last=False)
    with (
        eval_mode(model),
        autocast(device, "fp32"),
        _outputs(model, layers) as outputs,
        reading(x),
    ):
        logits = logits_in(forward_pass(model, given))
    features = tuple(_rows(name, outputs.get(name), len(x)) for name in layers)
    if logits is not None and (logits.ndim != 2 or len(logits) != len(x)):
        logits = None
    return Pass(features, tuple(outputs), logits)


@torch.no_grad()
def layer_passes(model: nn.Module, x: Tensor, layers: tuple[str, ...]) -> Pass:
    """Return what `layer_pass` does, on the CPU and without a graph, from passes as large as memory
    allows. Raises BadInput as it does, and where one image is too many.
    """

    def seen(rows: slice) -> Pass:
        return layer_pass(model, x[rows], layers).cpu()

    return Pass.joined(in_passes(model, seen, len(x), pass_size(x, device_of(model))))


@contextmanager
def _outputs(model: nn.Module, layers: tuple[str, ...]) -> Iterator[dict[str, object]]:
    """Run a block that collects what the layers return, by name; of several runs the last."""
    outputs: dict[str, object] = {}

    def keep(name: str, _: nn.Module, __: object, out: object) -> None:
        outputs.pop(name, None)  # its place is that of the last run
        outputs[name] = out

    parts = dict(network_under(model).named_modules(remove_duplicate=False))
    with ExitStack() as hooks:
        for name in layers:
            handle = parts[name].register_forward_hook(partial(keep, name))
            hooks.callback(handle.remove)
        yield outputs


def _rows(name: str, out: object, n: int) -> Tensor:
    if not isinstance(out, Tensor) or out.ndim < 2 or len(out) != n:
        shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise BadInput(
            f"layer {name!r}, which returns {'nothing' if out is None else shape}",
            expected=f"a tensor ({n}, features, ...)",
            fix="name a layer that returns a tensor with a row for each sample",
        )
    if out.ndim == 3:
        out = out.mean(1)
    elif out.ndim > 3:
        _tell_of_last_channels(name, out)
        out = out.flatten(2).mean(2)
    return finite(out.to(torch.promote_types(out.dtype, torch.float32)), f"layer {name!r}")


def _tell_of_last_channels(name: str, out: Tensor) -> None:
    """Give notice of maps (n, s, s, d), whose channels seem to be last, as in Swin: the average is
    one over axes that are no positions.
    """
    _, first, second, last, *more = out.shape
    if not more and first == second != last:
        notice(
            f"layer {name!r} returns {tuple(out.shape)}, which is averaged as (n, channels, height,"
            " width): name a layer that puts channels first if that is (n, height, width, channels)"
        )


def finite(values: Tensor, what: str) -> Tensor:
    """Return the values (n, ...), one row an input.

    Raises BadInput where they are NaN, infinite, or beyond float32, in which neighbors are
    compared: no distance to them means anything, and NaN is above no threshold.
    """
    good = torch.isfinite(values.detach().float()).flatten(1).all(1)
    if not bool(good.all()):
        odd = int((~good).sum())
        raise BadInput(
            f"{what} with numbers that are NaN or infinite for {odd} of {len(good)} inputs",
            expected="finite numbers",
            fix="leave such inputs out, or check the network for weights that have diverged",
        )
    return values
