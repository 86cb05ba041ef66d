"""A network in training, asked under other weights than its own."""

from __future__ import annotations

from torch import nn

from isthmus.types import BadInput, Params
from isthmus.view import View


def at_weights(net: nn.Module, weights: Params) -> View:
    """Return the network under other weights, with buffers of its own."""
    buffers = {name: buffer.detach().clone() for name, buffer in net.named_buffers()}
    return View(net, weights, buffers, scratch=buffers)


def trained_weights(model: nn.Module) -> Params:
    """Return the model's parameters. Raises BadInput where none of them trains."""
    found: Params = dict(model.named_parameters())
    if not any(p.requires_grad for p in found.values()):
        raise BadInput(
            f"a {type(model).__name__} with nothing to train",
            expected="a network whose parameters require gradients",
            fix="train a network with this loss, not a curve",
        )
    return found
