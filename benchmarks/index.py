"""Finding the nearest of 100,000 reference rows: by comparing all of them, and through a graph.

Floor. Comparing costs one product with the reference for each input; the graph looks at some
hundreds of rows, once it is built. Rows near a surface of few dimensions are what features and
images are like; rows spread in all directions are the worst case of any index.
"""

from __future__ import annotations

import importlib.util
import time
from typing import Any

import torch
from torch import Tensor

from isthmus.detection.index import INDEXES, Search

REFERENCE, INPUTS, NEIGHBORS, SURFACE = 100_000, 1000, 20, 16
SIZES = (64, 784)


def _rows(size: int, dimension: int) -> Tensor:
    """Return reference and inputs whose spread is that of `dimension` directions, bent a little."""
    generator = torch.Generator().manual_seed(0)
    places = torch.randn(REFERENCE + INPUTS, dimension, generator=generator)
    if dimension == size:
        return places
    directions = torch.randn(dimension, size, generator=generator) / dimension**0.5
    noise = torch.randn(REFERENCE + INPUTS, size, generator=generator)
    return (places @ directions).tanh() + 0.02 * noise


def _timed(search: Search, x: Tensor) -> tuple[Tensor, float]:
    began = time.perf_counter()
    return search(x, NEIGHBORS), time.perf_counter() - began


def _row(size: int, dimension: int) -> dict[str, Any]:
    """Return the times of both searches and the share that the graph finds."""
    rows = _rows(size, dimension)
    reference, x = rows[:REFERENCE], rows[REFERENCE:]
    true, exact = _timed(INDEXES["exact"](lambda _: reference), x)
    began = time.perf_counter()
    graph = INDEXES["approximate"](lambda _: reference)
    built = time.perf_counter() - began
    found, through = _timed(graph, x)
    hits = (true[:, :, None] == found[:, None, :]).any(2).double().mean()
    return {
        "features": size,
        "spread in": f"{dimension} directions",
        "build (s)": built,
        "exact (ms/input)": 1000 * exact / INPUTS,
        "graph (ms/input)": 1000 * through / INPUTS,
        "times": exact / through,
        "recall": float(hits),
        "pays off after inputs": built / max(1e-9, exact - through) * INPUTS,
    }


def measure() -> list[dict[str, Any]]:
    """Return a row per number of features and spread; one that says so without the extra `ann`."""
    if not importlib.util.find_spec("faiss"):
        return [{"features": "not measured: faiss is not installed"}]
    return [_row(size, dimension) for size in SIZES for dimension in (SURFACE, size)]
