"""What scores are measured on: pixels, or the outputs of named layers, all in one pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from isthmus.models.forward import as_input, device_of, eval_mode, forward_pass, network_under
from isthmus.runs.devices import autocast
from isthmus.runs.wording import suggestion
from isthmus.types import BadInput


def check_layers(model: nn.Module, layers: tuple[str, ...]) -> None:
    """Raise BadInput where the network has no layer of a name; says which come close."""
    names = [name for name, _ in network_under(model).named_modules() if name]
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


def layer_features(model: nn.Module, x: Tensor, layers: tuple[str, ...]) -> tuple[Tensor, ...]:
    """Return the outputs of the layers at images x (n, c, h, w), each (n, d), from one pass in eval
    mode.

    Maps (n, d, h, w) are averaged over their positions, sequences (n, length, d) over their length.
    The graph is recorded where gradients are on. Raises BadInput where a layer does not run, or
    returns something else.
    """
    device = device_of(model)
    given = as_input(x, device, channels_last=False)
    with eval_mode(model), autocast(device, "fp32"), _outputs(model, layers) as outputs:
        forward_pass(model, given)
    return tuple(_rows(name, outputs.get(name), len(x)) for name in layers)


@contextmanager
def _outputs(model: nn.Module, layers: tuple[str, ...]) -> Iterator[dict[str, object]]:
    """Run a block that collects what the layers return, by name; of several runs the last."""
    outputs: dict[str, object] = {}

    def keep(name: str, _: nn.Module, __: object, out: object) -> None:
        outputs[name] = out

    parts = dict(network_under(model).named_modules())
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
        out = out.flatten(2).mean(2)
    return out.to(torch.promote_types(out.dtype, torch.float32))
