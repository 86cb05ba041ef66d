"""A way to repair a network is followed: its endpoint, its curve, its path, the point on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from isthmus.curves.networks import PathNetworks
from isthmus.data.splits import Parts
from isthmus.defenses.curve_repair.candidates import Candidate
from isthmus.defenses.curve_repair.endpoints import Endpoint, resolve_endpoint
from isthmus.defenses.curve_repair.repaired import Repair
from isthmus.defenses.curve_repair.rules import without_confidence
from isthmus.defenses.curve_repair.training import RETRIES, TrainedCurve, trained_curve
from isthmus.metrics.passes import NotFinite
from isthmus.metrics.path import evaluate_path
from isthmus.runs.folder import state_file
from isthmus.training.state import Diverged
from isthmus.types import Metric


@dataclass(frozen=True)
class TrainedWay:
    """What a way was trained to: the endpoint, the curve to it, and the networks on the curve."""

    endpoint: Endpoint
    curve: TrainedCurve
    networks: PathNetworks


def follow(
    way: Candidate,
    tampered: nn.Module,
    parts: Parts,
    *,
    retries: int = RETRIES,
    metrics: Mapping[str, Metric] | None = None,
) -> Repair:
    """Return the repair by one way: make the endpoint, train the curve, measure it, choose t.

    `metrics` are measured in place of those of its selection. A curve whose training fails is
    trained again with gentler settings, at most `retries` times. Raises `Diverged` where networks
    on the path have no finite outputs.
    """
    way.selection.rule_for(way.route, parts)  # one that does not fit is refused before any training
    if metrics is None:
        metrics = way.selection.metrics(tampered, parts)
    return chosen(way, train(way, tampered, parts, retries=retries), parts, metrics)


def train(
    way: Candidate, tampered: nn.Module, parts: Parts, *, retries: int = RETRIES
) -> TrainedWay:
    """Return the endpoint of a way and the curve to it; `follow` says what is tried again."""
    endpoint = resolve_endpoint(
        way.other, tampered, parts.fitted, way.training, state_file(way.home, "other")
    )
    trained = trained_curve(
        (tampered, endpoint.network),
        parts.fitted,
        way.route,
        way.training,
        after_step=way.after_step,
        home=way.home,
        retries=retries,
    )
    return TrainedWay(endpoint, trained, PathNetworks(trained.curve, parts.fitted))


def chosen(way: Candidate, it: TrainedWay, parts: Parts, metrics: Mapping[str, Metric]) -> Repair:
    """Return the repair at the point that the rule of a way chooses on its path, measured by the
    metrics; `follow` says what is raised.
    """
    try:
        path = evaluate_path(
            it.networks,
            metrics,
            way.selection.grid(way.route),
            folder=None if way.home is None else way.home / "points",
        )
    except NotFinite as error:
        raise Diverged(
            "networks on the path whose outputs are NaN or infinite",
            expected="finite outputs",
            fix=f"lower lr (now {it.curve.training.lr:g})",
        ) from error
    t = without_confidence(way.selection.rule_for(way.route, parts)(path), parts)
    model = it.networks.at(float(t))
    return Repair(
        model,
        t,
        it.networks,
        path,
        it.endpoint,
        it.curve,
        parts,
        metrics,
        objection=way.objection(path, t),
    )
