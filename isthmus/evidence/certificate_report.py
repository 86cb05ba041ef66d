"""Certified accuracy against eps beside what an attack leaves, measured into a record."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from torch import nn

from isthmus.certification import CertifiedAccuracy, Certifier
from isthmus.data.balls import Ball
from isthmus.data.dataset import Data
from isthmus.evidence.certificate_record import CERTIFICATE, CertificateRow, Certificates
from isthmus.evidence.record import Origin, Value
from isthmus.metrics.accuracy import Accuracy
from isthmus.metrics.robustness import RobustAccuracy
from isthmus.models.zoo.implicit import equilibria
from isthmus.runs.identity import identity_of
from isthmus.types import Attack

LIMITS = (
    "A certificate is about inputs within eps of these samples, in this norm, and about the "
    "network in exact arithmetic with its weights as they are.",
    "It says nothing of other inputs, and nothing of what the weights were trained to do.",
)


def certificates(
    model: nn.Module,
    data: Data,
    certifier: Certifier,
    balls: Sequence[Ball],
    attack: Callable[[Ball], Attack] | None,
    *,
    network: str,
    provenance: Origin,
) -> Certificates:
    """Return certified accuracy in every ball, and accuracy under the attack where there is one.

    `network` names the network. Raises BadInput as certifier and attack do.
    """
    rows = tuple(_row(model, data, certifier, ball, attack) for ball in balls)
    accuracy = Value.of(Accuracy(data)(model))
    record = {
        "schema": CERTIFICATE,
        "title": f"Certificates of {network}",
        "verdict": _verdict(rows),
        "provenance": provenance,
        "certifier": identity_of(certifier),
        "attack": None if attack is None else identity_of(attack(balls[-1])),
        "accuracy": accuracy,
        "rows": rows,
        "equilibrium_layers": _layers(model),
        "limits": LIMITS,
    }
    return Certificates.read(record)


def _row(
    model: nn.Module,
    data: Data,
    certifier: Certifier,
    ball: Ball,
    attack: Callable[[Ball], Attack] | None,
) -> CertificateRow:
    began = time.perf_counter()
    certified = CertifiedAccuracy(data, certifier, ball)(model)
    seconds = (time.perf_counter() - began) / len(data)
    attacked = None if attack is None else RobustAccuracy(data, attack(ball))(model)
    return CertificateRow(
        eps=float(ball.eps),
        certified=Value.of(certified),
        attacked=None if attacked is None else Value.of(attacked),
        gap=None if attacked is None else float(attacked - certified),
        seconds_per_sample=seconds,
    )


def _layers(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Return gamma and the last fixed point of each equilibrium layer that has run."""
    return {
        name: {"gamma": layer.gamma, **asdict(layer.solution)}
        for name, layer in equilibria(model).items()
        if layer.solution is not None
    }


def _verdict(rows: Sequence[CertificateRow]) -> str:
    """Return the largest eps at which half of the samples are certified, in a sentence."""
    half = [row.eps for row in rows if (row.certified.value or 0.0) >= 0.5]
    if half:
        return f"At eps {max(half):g}, half of the answers or more are proved right."
    if any((row.certified.value or 0.0) > 0 for row in rows):
        return "At none of these eps is half of the answers proved right."
    return (
        "Nothing is proved at any of these eps: bounds through several layers are loose unless a "
        "network was trained for them. Smaller eps, training on the certified loss, or smoothing "
        "may prove something."
    )
