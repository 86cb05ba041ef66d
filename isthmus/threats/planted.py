"""Has an attack worked at all? Asked before a repair starts."""

from __future__ import annotations

from torch import nn

from isthmus.data import Source
from isthmus.metrics import AttackSuccess, Rate
from isthmus.triggers import Target
from isthmus.types import BadInput, Trigger, percent


def planted(network: nn.Module, data: Source, trigger: Trigger, target: Target, *, least: float = 0.9) -> Rate:
    """Return the attack success on evaluation data; refuse an attack that has not worked, before a repair starts.

    The same question to a network that was never poisoned gives the floor of the trigger. Raises BadInput where the
    attack succeeds on a smaller share than `least`.
    """
    success = AttackSuccess(data, trigger, target)(network)
    if success < least:
        raise BadInput(
            f"an attack that succeeds on {success.hits} of {success.n} samples",
            expected=f"{percent(least)} or more",
            fix="train longer, raise the poison rate, or make the trigger stronger",
        )
    return success
