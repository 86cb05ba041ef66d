"""Checkpoints written: safetensors, whole or not at all, the same bytes for the same content."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from isthmus.models.checkpoint.reading import check_entries
from isthmus.runs.files import write_atomically
from isthmus.runs.versions import versions
from isthmus.runs.wording import first_line
from isthmus.types import BadInput, Params


def check_metadata(metadata: Mapping[str, str]) -> None:
    """Raise BadInput where metadata are not text by name, which is all that safetensors hold."""
    for key, value in metadata.items():
        if not (isinstance(key, str) and isinstance(value, str)):
            raise BadInput(
                f"metadata {key!r}: {value!r}",
                expected="text by name",
                fix="pass json.dumps(value)",
            )


def _independent(state: Mapping[str, Tensor]) -> Params:
    """Return the tensors on the CPU, contiguous, none sharing memory with another."""
    seen: set[int] = set()
    apart: Params = {}
    for name, value in state.items():
        value = value.detach().cpu().contiguous()
        place = value.untyped_storage().data_ptr()
        apart[name] = value.clone() if place in seen else value
        seen.add(place)
    return apart


def _sort_metadata(path: Path) -> None:
    """Put the metadata of a safetensors file in order, in place.

    The library writes it in an order that changes from call to call; files of the same content are
    to be the same.
    """
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= size:
            file.seek(8)
            file.write(text.ljust(size))


def write_tensors(state: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> Path:
    """Write tensors and metadata, with the versions that computed them, as safetensors."""
    computed_by = {f"{name}_version": version for name, version in versions().items()}
    tensors = _independent(state)

    def write(temporary: Path) -> None:
        try:
            save_file(tensors, temporary, metadata={"format": "pt", **metadata, **computed_by})
        except SafetensorError as error:  # of a full disk, too
            raise OSError(first_line(error)) from error
        _sort_metadata(temporary)

    return write_atomically(path, write)


def check_savable(module: nn.Module | Mapping[str, Tensor]) -> None:
    """Raise BadInput where there is no state dict, or an entry of it is no dense tensor, which a
    checkpoint cannot hold.
    """
    if not isinstance(module, nn.Module | Mapping):
        raise BadInput(
            f"a {type(module).__name__} to save",
            expected="a module, or its state dict",
            fix="pass its network (.model); what compression made has a .save of its own",
        )
    state = module.state_dict() if isinstance(module, nn.Module) else module
    check_entries(state, type(module).__name__)


def save_checkpoint(
    module: nn.Module | Mapping[str, Tensor],
    path: Path | str,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a module's state dict, or a given one, as safetensors, whole or not at all, and return
    the path.

    Every key is kept; tensors that share memory are written once each. The metadata goes into the
    file, with the versions of isthmus, torch, Python and numpy. The same content gives the same
    bytes. Raises BadInput where it is no module, an entry is no dense tensor, the metadata is not
    text, or the file cannot be written.
    """
    check_savable(module)
    state = module.state_dict() if isinstance(module, nn.Module) else module
    check_metadata(metadata or {})
    return write_tensors(state, Path(path), metadata or {})
