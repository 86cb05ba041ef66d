"""Curves on disk: the bends once, the endpoints by path and hash."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from isthmus.curves.curve import Curve
from isthmus.models.checkpoint import check_metadata, load_checkpoint, read_tensors, write_tensors
from isthmus.runs.files import file_sha256
from isthmus.runs.wording import abbreviated
from isthmus.types import BadInput

_BENDS = "bends."


def _check_end(curve: Curve, t: float, path: Path, name: str) -> None:
    """Refuse a file that is not the network at this end of the curve."""
    net = curve.export(t)
    held = {key: value.clone() for key, value in net.state_dict().items()}
    load_checkpoint(path, net)
    if not all(torch.equal(value, held[key]) for key, value in net.state_dict().items()):
        raise BadInput(
            f"{path}, which holds other weights than the {name} of the curve",
            expected=f"the checkpoint of the network at t = {t:g}",
            fix=f"save that network, curve.export({t:g}), and pass its file",
        )


def _relative(path: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # on another drive
        return path.resolve().as_posix()


def save_curve(
    curve: Curve,
    path: Path | str,
    *,
    start: Path | str,
    end: Path | str,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a Curve's bends as safetensors, and its endpoints as references: path and SHA-256 of
    their checkpoints.

    Each trainable parameter stands under `bends.NAME` with shape (bends, ...). `start` and `end`
    are the files of the networks at t = 0 and t = 1; their paths are kept relative to the curve's
    file. Raises BadInput where one of them holds another network, or as `save_checkpoint` does."""
    path = Path(path)
    reference = {"kind": type(curve).__name__, "bends": str(len(curve.bends))}
    for t, name, file in ((0.0, "start", Path(start)), (1.0, "end", Path(end))):
        _check_end(curve, t, file, name)
        reference |= {name: _relative(file, path.parent), f"{name}_sha256": file_sha256(file)}
    moving = {name: p.shape for name, p in curve.export(0.0).named_parameters() if p.requires_grad}
    parts = (
        curve.bends.detach().split([shape.numel() for shape in moving.values()], dim=1)
        if moving
        else ()
    )
    bends = {
        _BENDS + name: part.reshape(len(part), *shape)
        for (name, shape), part in zip(moving.items(), parts, strict=True)
    }
    check_metadata(metadata or {})
    return write_tensors(bends, path, {**(metadata or {}), **reference})


def _endpoint(path: Path, name: str, metadata: Mapping[str, str], given: Path | str | None) -> Path:
    """Return the file of an endpoint, found and unchanged."""
    file = Path(given) if given is not None else path.parent / metadata[name]
    if not file.is_file():
        raise BadInput(
            f"{path}, whose {name} {file} is not there",
            expected="its endpoints beside it",
            fix=f"pass {name}=FILE",
        )
    found, wanted = file_sha256(file), metadata[f"{name}_sha256"]
    if found != wanted:
        raise BadInput(
            f"{file}, the {name} of {path}, which has changed (SHA-256 {found[:12]})",
            expected=f"the file that the curve was saved with (SHA-256 {wanted[:12]})",
            fix=f"restore it, or pass {name}=FILE",
        )
    return file


def _curve_class(path: Path, kind: str) -> type[Curve]:
    """Return the curve of that name among those this process knows; a file's word never makes one
    be imported.
    """
    known: dict[str, type[Curve]] = {}
    found: list[type[Curve]] = [Curve]  # type: ignore[type-abstract]
    for each in found:
        found.extend(each.__subclasses__())
        known[each.__name__] = each
    known.pop("Curve")
    if kind not in known:
        raise BadInput(
            f"{path}, a curve of unknown kind {kind!r}",
            expected=f"one of {abbreviated(known)}",
            fix="import the module that defines it first",
        )
    return known[kind]


def load_curve(
    path: Path | str,
    factory: Callable[[], nn.Module],
    *,
    start: Path | str | None = None,
    end: Path | str | None = None,
) -> Curve:
    """Return the Curve that `save_curve` wrote, between endpoints built by the factory from their
    checkpoints.

    `start` and `end` say where the endpoints' files are now, where they have moved; their content
    must be the same. Curves of the user's own are found by class name once their module is
    imported. Raises BadInput where the file holds no curve, an endpoint is missing or has changed,
    or the factory builds another network."""
    path = Path(path)
    tensors, metadata = read_tensors(path)
    missing = {"kind", "bends", "start", "end", "start_sha256", "end_sha256"} - metadata.keys()
    counts = {
        metadata.get("bends"),
        *(str(len(bend)) if bend.ndim else "" for bend in tensors.values()),
    }
    if (
        missing
        or len(counts) > 1
        or not metadata["bends"].isdecimal()
        or not all(name.startswith(_BENDS) for name in tensors)
    ):
        raise BadInput(
            f"{path}, which holds no curve",
            expected="a file that save_curve wrote",
            fix="check the path",
        )
    ends = [
        _endpoint(path, name, metadata, given) for name, given in (("start", start), ("end", end))
    ]
    nets = [load_checkpoint(file, factory()) for file in ends]
    moving = {name.removeprefix(_BENDS): bend for name, bend in tensors.items()}
    params = dict(nets[0].named_parameters())
    differing = [
        name
        for name, b in moving.items()
        if name not in params or params[name].shape != b.shape[1:]
    ]
    if differing:
        raise BadInput(
            f"{path}, whose bends do not fit the network ({abbreviated(differing)})",
            expected="the network that the curve was made of",
            fix="pass its factory",
        )
    for name, p in params.items():
        p.requires_grad_(name in moving)
    curve = _curve_class(path, metadata["kind"])(nets[0], nets[1], bends=int(metadata["bends"]))
    flat = [
        moving[name].reshape(len(curve.bends), p.numel())
        for name, p in params.items()
        if name in moving
    ]
    with torch.no_grad():
        curve.bends.copy_(torch.cat(flat, dim=1) if flat else curve.bends)
    return curve.eval()
