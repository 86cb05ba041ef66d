"""How the nearest reference rows are found: by comparing all of them, or through a graph.

Source: Malkov and Yashunin, Efficient and robust approximate nearest neighbor search using
Hierarchical Navigable Small World graphs, TPAMI 2020, as faiss builds them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from isthmus.runs.imports import of_extra

Rows = Callable[[torch.device], Tensor]
"""The reference rows (N, d) on a device."""

Search = Callable[[Tensor, int], Tensor]
"""(x (n, d), count) -> the indices of the nearest reference rows, (n, count) int64 on x's device,
nearest first."""

CPU = torch.device("cpu")

LINKS = 32
"""How many neighbors a row keeps in the graph."""

BREADTH = 200
"""How many candidates are held while a row is added or looked for, or four times as many as are
asked for where that is more."""


def exact(rows: Rows) -> Search:
    """Return the search that compares x with every row, on x's device."""
    index = NearestNeighbors(algorithm="brute").fit(rows(CPU).numpy())

    def search(x: Tensor, count: int) -> Tensor:
        if x.device.type == "cpu":
            return torch.from_numpy(index.kneighbors(_array(x), count, return_distance=False))
        reference = rows(x.device)
        parts = [
            torch.cdist(part, reference).topk(count, largest=False).indices
            for part in x.float().split(256)
        ]
        return torch.cat(parts)

    return search


def approximate(rows: Rows) -> Search:
    """Return the search through a graph, which misses some neighbors and takes a time that hardly
    grows with the reference.

    The graph is built by one thread, so that it is the same every time: about a second for 1,000
    rows of 784 values. Raises BadInput where faiss is not installed.
    """
    otherwise = ", or leave the index exact"
    faiss = of_extra("faiss", "ann", "an approximate index", otherwise)
    reference = rows(CPU)
    index = faiss.IndexHNSWFlat(reference.shape[1], LINKS)
    index.hnsw.efConstruction = BREADTH
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        index.add(_array(reference))
    finally:
        faiss.omp_set_num_threads(threads)

    def search(x: Tensor, count: int) -> Tensor:
        index.hnsw.efSearch = max(BREADTH, 4 * count)
        found = torch.from_numpy(index.search(_array(x), count)[1])
        lost = (found < 0).any(1)  # from where the search began, the graph led to too few rows
        if lost.any():
            found[lost] = exact(rows)(x.cpu()[lost], count)
        return found.to(x.device)

    return search


INDEXES: dict[str, Callable[[Rows], Search]] = {"exact": exact, "approximate": approximate}
"""The searches by name."""


def _array(x: Tensor) -> np.ndarray[Any, Any]:
    values: np.ndarray[Any, Any] = x.detach().float().cpu().contiguous().numpy()
    return values
