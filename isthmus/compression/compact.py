"""A compressed network with its record, and the small file it is saved in.

The file is safetensors: weights that are masked, or have many zeros, as values and places,
quantized ones as packed levels and a scale, with places too where many are 0, all other tensors as
they are. What was done, and how to unpack it, are JSON in the metadata. No pickle is read or
written.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from isthmus.compression.entries import Description, Entry, GridEntry, MaskEntry, ZerosEntry
from isthmus.compression.network import baked, part_of
from isthmus.compression.packing import pack_grid, pack_mask, pack_zeros, unpack_grid, unpack_mask
from isthmus.compression.pruning.mask import held_in, masked
from isthmus.compression.pruning.smaller import resized
from isthmus.compression.quantization.rounded import round_weight, rounded_in
from isthmus.models.checkpoint.fitting import check_numbers
from isthmus.models.checkpoint.reading import COMPRESSED, read_packed
from isthmus.models.checkpoint.writing import write_tensors
from isthmus.runs.identity import sha256_of
from isthmus.runs.wording import abbreviated
from isthmus.types import BadInput, Params

_SEPARATOR = "//"


@dataclass(frozen=True)
class Compressed:
    """A compressed network, in eval mode, and the record of what was done, as plain JSON."""

    model: nn.Module
    record: dict[str, Any]

    def save(self, path: str | Path) -> Path:
        """Write network and record as a packed file, whole or not at all; return the path.

        Raises BadInput where the file cannot be written, or the record is no plain JSON.
        """
        net = baked(self.model).cpu()
        state = _state(net)
        tensors = dict(state)
        packed: dict[str, Entry] = {}
        for name, held in held_in(self.model).items():
            value = tensors.pop(name)
            parts = pack_mask(value, held.mask.mask)
            packed[name] = MaskEntry(shape=tuple(value.shape), parts=tuple(sorted(parts)))
            tensors |= {_part(name, key): part for key, part in parts.items()}
        for name, (rounded, original) in rounded_in(self.model).items():
            value = tensors.pop(name)
            grid, fitted = rounded.grid, rounded.fitted(original)
            parts = pack_grid(fitted.levels, fitted.scale.to(value.dtype), grid.levels)
            shape, named = tuple(value.shape), tuple(sorted(parts))
            packed[name] = GridEntry(shape=shape, parts=named, top=grid.top, step=grid.step)
            tensors |= {_part(name, key): part for key, part in parts.items()}
        for name, _ in net.named_parameters():
            few = pack_zeros(tensors[name]) if name in tensors else None
            if few is not None:
                value = tensors.pop(name)
                packed[name] = ZerosEntry(shape=tuple(value.shape), parts=tuple(sorted(few)))
                tensors |= {_part(name, key): part for key, part in few.items()}
        text = Description.written(packed, self.record, _state_sha256(state))
        return write_tensors(tensors, Path(path), {COMPRESSED: text})

    @classmethod
    def load(cls, path: str | Path, model: nn.Module) -> Compressed:
        """Return what `save` has written, in a copy of `model`, the network as it was built.

        Channels that were removed are removed from the copy, so a network with wider layers, but
        else the same, is made as narrow; masks and grids hold its weights as they did. Every tensor
        is compared with the hash in the file. No more memory is taken than the file and the network
        need. Raises BadInput where the file is none of `save`, is damaged, holds numbers that are
        not finite, or is of a network with other names, or wider layers.
        """
        path = Path(path)
        tensors, said = _read(path)
        net = baked(model).cpu()
        _check_places(path, net, said)
        state, masks = _unpacked(path, tensors, said)
        net = _filled(path, net, state)
        for name, entry in said.packed.items():
            part, leaf = part_of(net, name)
            if isinstance(entry, MaskEntry):
                masked(part, leaf).keep(masks[name])
            elif isinstance(entry, GridEntry):
                round_weight(part, entry.grid)
        if _state_sha256(plain_state(net)) != said.sha256:
            raise _foreign(path, "whose tensors are not those of its hash")
        return cls(net.eval(), said.record)


def plain_state(model: nn.Module) -> Params:
    """Return the state dict that the network has without its parametrizations.

    What stands in several places is in it once, by its first name.
    """
    return _state(baked(model).cpu())


def _state(net: nn.Module) -> Params:
    """Return a state dict with one name for each tensor."""
    first: dict[int, str] = {}
    for name, value in net.state_dict(keep_vars=True).items():
        first.setdefault(id(value), name)
    state = net.state_dict()
    return {name: state[name] for name in first.values()}


def _state_sha256(state: Params) -> str:
    return sha256_of(*(state[name] for name in sorted(state)))


def _foreign(path: str | Path, what: str) -> BadInput:
    return BadInput(
        f"{path}, {what}",
        expected="a file that Compressed.save has written, for this network",
        fix="pass the network that was compressed, as its factory builds it",
    )


def _part(name: str, part: str) -> str:
    """Return the name in the file of a part of a packed tensor."""
    return name + _SEPARATOR + part


def _read(path: Path) -> tuple[Params, Description]:
    """Return the tensors of a file and what it says of them. Raises BadInput for another file."""
    tensors, text = read_packed(path)
    if text is None:
        raise _foreign(path, "which is no compressed network")
    try:
        return tensors, Description.read(text)
    except ValueError as error:
        raise _foreign(path, f"whose description is {error}") from error


def _check_places(path: Path, net: nn.Module, said: Description) -> None:
    """Raise BadInput where what is packed is no parameter, or larger than the network's own."""
    own = dict(net.named_parameters())
    for name, entry in said.packed.items():
        on_grid = isinstance(entry, GridEntry)
        if name not in own or (on_grid and name.rpartition(".")[2] != "weight"):
            raise _foreign(path, f"where {name} is packed, no weight of the network")
        _check_shape(path, name, entry.shape, own[name])


def _check_shape(path: Path, name: str, shape: tuple[int, ...], own: Tensor) -> None:
    """Raise BadInput where an axis is longer than the network's own, or empty in its place."""
    fits = len(shape) == own.ndim
    if not fits or any(a > b or (b and not a) for a, b in zip(shape, own.shape, strict=True)):
        raise _foreign(path, f"where {name} is {shape}, not {tuple(own.shape)}")


def _unpacked(path: Path, tensors: Params, said: Description) -> tuple[Params, Params]:
    """Return all tensors by name, unpacked where they are packed, and the masks. Raises BadInput
    where parts are missing or do not fit.
    """
    whole = dict(tensors)
    masks: Params = {}
    for name, entry in said.packed.items():
        missing = [key for key in entry.parts if _part(name, key) not in whole]
        if missing:
            raise _foreign(path, f"where {name} lacks {abbreviated(missing)}")
        parts = {key: whole.pop(_part(name, key)) for key in entry.parts}
        if name in whole:
            raise _foreign(path, f"where {name} is both packed and not")
        try:
            if isinstance(entry, GridEntry):
                whole[name] = unpack_grid(parts, entry.grid.levels, entry.shape)
            else:
                whole[name], mask = unpack_mask(parts, entry.shape)
                masks |= {name: mask} if isinstance(entry, MaskEntry) else {}
        except BadInput as error:
            raise error.within(f"{path}, {name}") from error
    return whole, masks


def _filled(path: Path, net: nn.Module, state: Params) -> nn.Module:
    """Return the network, or a copy with tensors as small as the state's, with this state.

    Raises BadInput where the state has other names, kinds of numbers, or larger shapes.
    """
    own = _state(net)
    missing = sorted(own.keys() - state.keys())
    extra = sorted(state.keys() - own.keys())
    if missing or extra:
        raise _foreign(
            path, f"without {abbreviated(missing)}" if missing else f"with {abbreviated(extra)}"
        )
    for name, value in state.items():
        _check_shape(path, name, tuple(value.shape), own[name])
        if value.dtype != own[name].dtype:
            raise _foreign(path, f"where {name} is {value.dtype}, not {own[name].dtype}")
    changed = {name: value for name, value in state.items() if value.shape != own[name].shape}
    own |= {name: torch.zeros_like(value) for name, value in changed.items()}
    check_numbers(path, state, own)
    if changed:
        net = resized(net, changed)
    net.load_state_dict(state, strict=False)  # of whose names those of second places are left out
    return net
