"""What `fit` calls after each step: projections, checks, and several of them as one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

AfterStep = Callable[[nn.Module], None]
"""What `fit` calls with the module after each step; it may change the module in place."""


@dataclass(frozen=True)
class InOrder:
    """Several hooks as one: each is called with the module, in order. See `in_order`."""

    hooks: tuple[AfterStep, ...]

    def __call__(self, module: nn.Module) -> None:
        """Call every hook with the module."""
        for hook in self.hooks:
            hook(module)


def in_order(*hooks: AfterStep | None) -> AfterStep | None:
    """Return one hook that calls the given ones in order; None where all of them are None.

    >>> in_order(None, print)
    <built-in function print>
    >>> in_order(print, None, repr).hooks
    (<built-in function print>, <built-in function repr>)
    """
    given = tuple(hook for hook in hooks if hook is not None)
    if len(given) > 1:
        return InOrder(given)
    return given[0] if given else None
