"""The routes that a repair may take, in the order in which they are tried."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path as File

from torch import nn

from isthmus.curves.connection import check_hook
from isthmus.curves.curve import check_real, check_same_architecture
from isthmus.curves.route import DEFAULT_ROUTE, Route
from isthmus.data.dataset import Data
from isthmus.defenses.curve_repair.selection import Selection
from isthmus.defenses.curve_repair.unlearned import ALMOST, unlearned_copy
from isthmus.metrics.accuracy import check_above_chance
from isthmus.training.budget import Training
from isthmus.training.hooks import AfterStep
from isthmus.types import Defense


@dataclass(frozen=True, eq=False)
class Candidate:
    """One way to repair a network: the network at t = 1, or what makes it, the route to it, and how
    that is trained.

    `after_step` is that of `fit`. `home` is the folder where unfinished work is saved; None saves
    nothing.
    """

    other: nn.Module | Defense | None
    route: Route
    training: Training
    after_step: AfterStep | None = None
    home: File | None = None

    def check(self, tampered: nn.Module, bonafide: Data) -> None:
        """Raise BadInput where the networks or the hook do not fit, before any work is done."""
        check_hook(self.route, self.after_step)
        check_real(tampered)
        check_above_chance(tampered, bonafide)
        if isinstance(self.other, nn.Module):
            check_same_architecture(tampered, self.other)
            check_above_chance(self.other, bonafide)


def candidates(
    tampered: nn.Module,
    bonafide: Data,
    other: nn.Module | Defense | None,
    route: Route | None,
    *,
    training: Training,
    selection: Selection,
    after_step: AfterStep | None = None,
    home: File | None = None,
) -> list[Candidate]:
    """Return the ways to repair the network, the first to be tried first.

    Where `other`, `route`, a hook, or a rule or values of t in `selection` are given, that is the
    one way. Else it is the straight path to `unlearned_copy`, and after it a curve to
    `default_endpoint`.
    """
    only = Candidate(other, route or DEFAULT_ROUTE, training, after_step, home)
    chosen = (other, route, after_step, selection.rule, selection.values_of_t)
    if any(choice is not None for choice in chosen):
        return [only]
    unlearned = unlearned_copy(tampered, bonafide, training, home=home)
    return [replace(only, other=unlearned, route=ALMOST), only]
