"""What a repair trained on the way to its network, one row for each training, as it was run."""

from __future__ import annotations

from collections.abc import Iterator

from isthmus.curves.route import Route
from isthmus.defenses.curve_repair.repaired import Repair
from isthmus.defenses.spending import Trained
from isthmus.evidence.record import TrainingPart
from isthmus.runs.devices import chosen_precision, pick_device


def trainings(repaired: Repair) -> tuple[TrainingPart, ...]:
    """Return every training of a repair, those of the ways that were not taken first.

    A network that came as a checkpoint has no row, nor has a straight path.
    """
    rows: list[TrainingPart] = []
    for way in (*repaired.rejected, repaired):
        rows += map(_of_run, way.endpoint.runs)
        rows += _of_curve(way)
    return tuple(rows)


def _of_curve(repaired: Repair) -> Iterator[TrainingPart]:
    history, route = repaired.history, repaired.route
    if history is None:
        return
    source = repaired.endpoint.spoken
    yield TrainingPart(
        name=f"curve to {source}",
        steps=history.steps,
        gradients=history.steps * route.cost,
        lr=history.lr,
        batch_size=history.batch_size,
        weight_decay=repaired.training.weight_decay,
        clip=repaired.training.clip,
        rho=route.rho,
        precision=history.precision,
        retries=round(repaired.trained.wasted / (history.steps * route.cost)),
        wasted=repaired.trained.wasted,
        seconds=history.seconds,
    )


def _of_run(maker: Trained) -> TrainingPart:
    """Return the row of a defense that trained, whose budget counts gradients and not steps."""
    training, route, rho = maker.training, _route_of(maker), _rho_of(maker)
    cost = route.cost if route is not None else (2 if rho else 1)
    return TrainingPart(
        name=type(maker).__name__,
        steps=training.steps // max(1, cost),
        gradients=training.steps,
        lr=training.lr,
        batch_size=training.batch_size,
        weight_decay=training.weight_decay,
        clip=training.clip,
        rho=rho,
        precision=chosen_precision(pick_device(training.device), training.precision),
    )


def _route_of(maker: Trained) -> Route | None:
    route = getattr(maker, "route", None)
    return route if isinstance(route, Route) else None


def _rho_of(maker: Trained) -> float | None:
    route = _route_of(maker)
    rho = route.rho if route is not None else getattr(maker, "rho", None)
    return None if rho is None else float(rho)
