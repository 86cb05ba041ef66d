"""The weights that an attacker trains."""

from __future__ import annotations

from torch import nn

from isthmus.types import BadInput, Params


def trained_weights(model: nn.Module) -> Params:
    """Return the model's parameters. Raises BadInput where none of them trains."""
    weights: Params = dict(model.named_parameters())
    if not any(p.requires_grad for p in weights.values()):
        raise BadInput(
            f"a {type(model).__name__} with nothing to train",
            expected="a network whose parameters require gradients",
            fix="train a network with this loss, not a curve",
        )
    return weights
