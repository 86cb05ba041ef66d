"""A fixed point on a curve as a defense: nothing is held out and nothing is measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path as File

from torch import nn

from isthmus.curves.connection import connect
from isthmus.curves.point import network_at
from isthmus.curves.route import DEFAULT_ROUTE, Route
from isthmus.data.dataset import Data, Source, as_data
from isthmus.defenses.curve_repair.endpoints import default_endpoint
from isthmus.defenses.curve_repair.rules import FAR
from isthmus.defenses.spending import Trained, gradients_of, made_by
from isthmus.training.budget import Training
from isthmus.types import Defense


@dataclass(frozen=True)
class OnCurve(Trained):
    """The point at `t` of a curve that all of the samples train.

    `training` is the curve's, but its steps count gradient evaluations, of which a sharpness-aware
    step takes two. `other` is the network at t = 1 or what makes it, whose cost comes on top; None
    is `default_endpoint`, which the budget of the curve pays for. An unfinished curve is saved to
    `checkpoint`, which is no part of the defense's identity.
    """

    other: nn.Module | Defense | None = None
    route: Route = DEFAULT_ROUTE
    t: float = FAR
    checkpoint: File | None = field(default=None, repr=False)

    @property
    def gradients(self) -> int:
        """How many gradient evaluations the curve and its second endpoint take at most."""
        return self.training.steps + gradients_of(self.other)

    def __call__(self, tampered: nn.Module, bonafide: Source) -> nn.Module:
        """Return the network at t, BatchNorm recalibrated on the samples. Raises BadInput as
        `connect` does.
        """
        data = as_data(bonafide)
        other, training = self.other, in_steps(self.training, self.route)
        if other is None:
            other, training = default_within(self.training, self.route, tampered, data)
        curve, _ = connect(
            tampered,
            made_by(other, tampered, data),
            data,
            route=self.route,
            training=training,
            checkpoint=self.checkpoint,
        )
        return network_at(curve, self.t, data)


def default_within(
    training: Training, route: Route, tampered: nn.Module, bonafide: Data
) -> tuple[nn.Module, Training]:
    """Return the default second endpoint, and the training of the curve to it in its own steps.

    `training.steps` counts the gradients of both. An endpoint that has to be trained takes as many
    steps as the curve. Raises BadInput where the budget pays for none.
    """
    cost = max(1, route.cost)
    shared = training.replace(steps=max(1, training.steps // (cost + 1)))
    endpoint = default_endpoint(tampered, bonafide, shared)
    cost += bool(endpoint.gradients)
    return endpoint.network, training.replace(steps=training.steps_costing(cost))


def in_steps(training: Training, route: Route) -> Training:
    """Return a training whose steps count gradients as one that counts steps of the route.

    Raises BadInput where the budget pays for none.
    """
    return training.replace(steps=training.steps_costing(max(1, route.cost)))
