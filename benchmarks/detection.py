"""Fitting a detector and scoring with it, against scikit-learn's plain neighbors and, where it is
installed, pytorch-ood's Mahalanobis and KNN, on features of 10,000 reference samples.

Floor. The search costs one product of the inputs with the reference, which plain neighbors do too;
the scores add a Gram matrix of the neighbors for each input. Areas have to be equal where two
compute the same.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from benchmarks.timing import in_turns, ratio
from isthmus.detection import scores
from isthmus.metrics import Area

REFERENCE, INPUTS, NEIGHBORS, CLASSES = 10_000, 1000, 20, 10
SIZES = (64, 784)


def _features(size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the reference with its labels, clean inputs, and inputs that were moved a little."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(CLASSES, size, generator=generator)
    labels = torch.arange(REFERENCE) % CLASSES
    noise = torch.randn(REFERENCE + INPUTS, size, generator=generator)
    rows = torch.cat([centers[labels], centers[labels[:INPUTS]]]) + 0.5 * noise
    clean = rows[REFERENCE:]
    moved = clean + 0.1 * torch.randn(clean.shape, generator=generator)
    return rows[:REFERENCE], labels, clean, moved


def _timed(work: Callable[[], Any]) -> Callable[[], float]:
    def timed() -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    return timed


def _plain(reference: Tensor, x: Tensor) -> Tensor:
    """Return the mean distance to the neighbors by scikit-learn alone."""
    index = NearestNeighbors(algorithm="brute").fit(reference.numpy())
    return torch.from_numpy(index.kneighbors(x.numpy(), NEIGHBORS)[0]).double().mean(1)


def _theirs(name: str, reference: Tensor, labels: Tensor, x: Tensor) -> Tensor:
    """Return the scores of pytorch-ood."""
    detectors = importlib.import_module("pytorch_ood.detector")
    if name == "mahalanobis":
        detector = detectors.Mahalanobis(None).fit_features(reference, labels)
    else:
        detector = detectors.KNN(None, n_neighbors=NEIGHBORS).fit_features(reference, labels)
    return torch.as_tensor(detector.predict_features(x)).double()


def _row(name: str, size: int, rounds: int) -> dict[str, Any]:
    """Return the times and areas of one score."""
    reference, labels, clean, moved = _features(size)
    kind = scores()[name]

    def ours(x: Tensor) -> Tensor:
        return kind.fit((reference,), labels, NEIGHBORS)(x)

    def plain(x: Tensor) -> Tensor:
        return _plain(reference, x)

    def theirs(x: Tensor) -> Tensor:
        return _theirs(name, reference, labels, x)

    ways = {"ours": ours, "plain neighbors": plain}
    if importlib.util.find_spec("pytorch_ood") and name in ("knn", "mahalanobis"):
        ways["pytorch-ood"] = theirs
    took = in_turns({way: _timed(partial(run, clean)) for way, run in ways.items()}, rounds)
    row: dict[str, Any] = {"score": name, "features": size, "ours (s)": min(took["ours"])}
    for way in ("plain neighbors", "pytorch-ood"):
        row[f"ours / {way}"] = ratio(took["ours"], took[way]) if way in ways else "not measured"
    for way in ("ours", "plain neighbors", "pytorch-ood"):
        known = way in ways
        row[f"AUROC, {way}"] = float(Area.of(ways[way](clean), ways[way](moved))) if known else ""
    return row


def measure(rounds: int) -> list[dict[str, Any]]:
    """Return a row per number of features and score: seconds, ratios, and areas."""
    names = ("knn", "lle", "tangent", "mahalanobis")
    return [_row(name, size, rounds) for size in SIZES for name in names]
