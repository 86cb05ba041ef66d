"""A compressed network with its record, and the small file it is saved in.

The file is safetensors: masked weights as values and positions, quantized ones as packed levels and
a scale, everything else as it is; what was done and how to unpack it are JSON in the metadata. No
pickle is read or written. Biases, normalization and layers that are not compressed are float32.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from isthmus.compression.network import baked, part_of
from isthmus.compression.packing import pack_codes, pack_mask, unpack_codes, unpack_mask
from isthmus.compression.pruning.mask import held_in, masked
from isthmus.compression.quantization.grids import Grid
from isthmus.compression.quantization.rounded import round_weight, rounded_in
from isthmus.models.checkpoint.reading import COMPRESSED
from isthmus.models.checkpoint.writing import write_tensors
from isthmus.runs.files import parse_json
from isthmus.runs.identity import sha256_of
from isthmus.runs.wording import abbreviated, first_line
from isthmus.types import BadInput, Params

_SEPARATOR = "//"


class Packed(TypedDict, total=False):
    """How a tensor is packed: `kind` is mask or grid."""

    kind: str
    shape: list[int]
    top: int
    step: int
    parts: list[str]


@dataclass(frozen=True)
class Compressed:
    """A compressed network, in eval mode, and the record of what was done, as plain JSON."""

    model: nn.Module
    record: dict[str, Any]

    def save(self, path: str | Path) -> Path:
        """Write network and record as a packed file, whole or not at all; return the path.

        Raises BadInput where the file cannot be written.
        """
        state = plain_state(self.model)
        tensors = dict(state)
        packed: dict[str, Packed] = {}
        for name, held in held_in(self.model).items():
            value = tensors.pop(name)
            parts = pack_mask(value, held.mask.mask)
            tensors |= {name + _SEPARATOR + key: part for key, part in parts.items()}
            packed[name] = {"kind": "mask", "shape": list(value.shape), "parts": sorted(parts)}
        for name, (rounded, original) in rounded_in(self.model).items():
            value = tensors.pop(name)
            level, scale = rounded.grid.fit(original)
            grid = rounded.grid
            codes = ((level.cpu() + grid.top) / grid.step).long()
            tensors[f"{name}{_SEPARATOR}codes"] = pack_codes(codes, len(grid.levels))
            tensors[f"{name}{_SEPARATOR}scale"] = scale.cpu().to(value.dtype)
            packed[name] = {"kind": "grid", "shape": list(value.shape)}
            packed[name] |= {"top": grid.top, "step": grid.step, "parts": ["codes", "scale"]}
        described = {
            "packed": packed,
            "record": self.record,
            "sha256": _state_sha256(state),
        }
        return write_tensors(
            tensors, Path(path), {COMPRESSED: json.dumps(described, sort_keys=True)}
        )

    @classmethod
    def load(cls, path: str | Path, model: nn.Module) -> Compressed:
        """Return what `save` has written, in a copy of `model`, the network as it was built.

        Channels that were removed are removed from the copy; masks and grids hold its weights as
        they did. Every tensor is compared with the hash in the file. Raises BadInput where the file
        is none of `save`, is damaged, or is of another network.
        """
        tensors, described = _read(Path(path))
        state: Params = {}
        masks: Params = {}
        for name, entry in described["packed"].items():
            parts = {
                key: tensors.pop(name + _SEPARATOR + key, torch.zeros(0)) for key in entry["parts"]
            }
            shape = tuple(entry["shape"])
            if entry["kind"] == "mask":
                state[name], masks[name] = unpack_mask(parts, shape)
            else:
                grid = Grid(entry["top"], entry["step"])
                codes = unpack_codes(parts["codes"], len(grid.levels), shape)
                state[name] = grid.levels.to(parts["scale"])[codes] * parts["scale"]
        state |= tensors
        net = _filled(model, state, Path(path))
        if _state_sha256(plain_state(net)) != described["sha256"]:
            raise _foreign(path, "whose tensors are not those of its hash")
        for name, entry in described["packed"].items():
            part, leaf = part_of(net, name)
            if entry["kind"] == "mask":
                masked(part, leaf).keep(masks[name])
            else:
                round_weight(part, Grid(entry["top"], entry["step"]))
        return cls(net.eval(), described["record"])


def plain_state(model: nn.Module) -> Params:
    """Return the state dict that the network has without its parametrizations."""
    return baked(model).cpu().state_dict()


def _state_sha256(state: Params) -> str:
    return sha256_of(*(state[name] for name in sorted(state)))


def _foreign(path: str | Path, what: str) -> BadInput:
    return BadInput(
        f"{path}, {what}",
        expected="a file that Compressed.save has written, for this network",
        fix="pass the network that was compressed, as its factory builds it",
    )


def _read(path: Path) -> tuple[Params, dict[str, Any]]:
    """Return the tensors of a file and what it says of them. Raises BadInput for another file."""
    try:
        with safe_open(path, framework="pt") as file:
            described = parse_json((file.metadata() or {})[COMPRESSED])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise _foreign(path, f"which cannot be read ({first_line(error)})") from error
    except (KeyError, ValueError) as error:
        raise _foreign(path, "which is no compressed network") from error
    return tensors, described


def _filled(model: nn.Module, state: Params, path: Path) -> nn.Module:
    """Return a copy of the network with this state, its tensors as small as the state's."""
    from isthmus.compression.pruning.smaller import resized, shapes_of

    net = baked(model).cpu()
    own = net.state_dict()
    missing = sorted(own.keys() - state.keys())
    extra = sorted(state.keys() - own.keys())
    if missing or extra:
        raise _foreign(
            path, f"without {abbreviated(missing)}" if missing else f"with {abbreviated(extra)}"
        )
    for name, value in state.items():
        there = own[name].shape
        same_axes = value.ndim == len(there)
        if not same_axes or any(a > b for a, b in zip(value.shape, there, strict=True)):
            raise _foreign(path, f"where {name} is {tuple(value.shape)}, not {tuple(there)}")
    changed = {name: state[name] for name in shapes_of(net) if state[name].shape != own[name].shape}
    if changed:
        net = resized(net, changed)
    net.load_state_dict(state)
    return net
