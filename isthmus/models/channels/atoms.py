"""The graph of channels: atoms that are tied together, told apart by colors, or may not move."""

from __future__ import annotations

from zlib import crc32

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from isthmus.models.channels.labels import Blocks, Key, mix
from isthmus.types import Params


class Atoms:
    """Atoms are made for the axes of parameters and buffers, one for each index of an axis.

    `node` numbers the operation that is being followed, for what it ties.
    """

    def __init__(self, tensors: Params, blocks: Blocks | None = None) -> None:
        self.tensors = tensors
        self.blocks = dict(blocks or {})
        self.places: dict[Key, tuple[Tensor, Tensor]] = {}
        self.color = torch.zeros(0, dtype=torch.int64)
        self.owner = torch.zeros(0, dtype=torch.int64)  # which place an atom was made for
        self.edges: list[Tensor] = []
        self.pins: list[tuple[Tensor, str]] = []
        self.node = 0
        self._roots: Tensor | None = None

    def place(self, name: str, axis: int | None) -> tuple[Tensor, Tensor]:
        """Return the atoms and tags along one axis of a parameter, made at the first call."""
        tensor = self.tensors[name]
        axis = 0 if tensor.ndim == 1 else axis
        if (name, axis) not in self.places:
            size = tensor.numel() if axis is None else tensor.shape[axis]
            atom, tag = self.blocks.get(
                (name, axis), (torch.arange(size), torch.zeros(size, dtype=torch.int64))
            )
            atom = atom + len(self.color)
            self.places[name, axis] = (atom, tag)
            new = torch.zeros(int(atom.max()) + 1 - len(self.color), dtype=torch.int64)
            self.color = torch.cat([self.color, new])
            self.owner = torch.cat([self.owner, new + len(self.places)])
            self._roots = None
            self.paint(atom, mix(crc32(f"{name} {axis}".encode()), tag))
        return self.places[name, axis]

    def paint(self, atom: Tensor, value: Tensor) -> None:
        """Add values to the colors of atoms."""
        atom, value = (t.reshape(-1) for t in torch.broadcast_tensors(atom, value))
        self.color.index_add_(0, atom[atom >= 0], value[atom >= 0])

    def tie(self, one: Tensor, other: Tensor) -> None:
        """Hold channels together, elementwise, wherever both are channels."""
        pairs = torch.stack([t.reshape(-1) for t in torch.broadcast_tensors(one, other)])
        pairs = pairs[:, (pairs >= 0).all(0) & (pairs[0] != pairs[1])]
        if pairs.numel():
            pairs = torch.unique(
                pairs[0] * 2**31 + pairs[1]
            )  # of whole columns it would take a hundred times as long
            self.edges.append(
                torch.stack([pairs // 2**31, pairs % 2**31, torch.full_like(pairs, self.node)])
            )
            self._roots = None

    def pin(self, atom: Tensor, reason: str) -> None:
        """Let no permutation move the atoms."""
        atom = torch.unique(atom)
        self.pins.append((atom[atom >= 0], reason))

    @property
    def roots(self) -> Tensor:
        """One number per atom, equal for those that are tied together."""
        if self._roots is None:
            n = len(self.color)
            a, b, _ = self._edges().numpy()
            labels = connected_components(
                coo_array((np.ones(len(a)), (a, b)), shape=(n, n)), directed=False
            )[1]
            self._roots = torch.as_tensor(labels, dtype=torch.int64)
        return self._roots

    def _edges(self) -> Tensor:
        return torch.cat(self.edges, 1) if self.edges else torch.zeros(3, 0, dtype=torch.int64)

    def colors(self) -> Tensor:
        """Return the atoms' colors, each refined by those of the atoms that it is tied to, and
        where (twice).
        """
        (a, b, node), color = self._edges(), self.color
        for _ in range(2):
            finer = mix(color)
            finer.index_add_(0, a, mix(10, color[b], node)).index_add_(
                0, b, mix(11, color[a], node)
            )
            color = finer
        return color

    def rooted(self, atom: Tensor) -> Tensor:
        """Return what each atom is tied to, -1 where there is none."""
        return (
            torch.where(atom >= 0, self.roots[atom.clamp_min(0)], -1) if len(self.color) else atom
        )

    def uniform(self, atom: Tensor, *axes: int) -> bool:
        """Return whether each part of the tensor along the axes is of one channel, or none."""
        root = self.rooted(atom)
        first = root
        for axis in axes:
            first = first.narrow(axis, 0, 1)
        return bool((root == first).all())
