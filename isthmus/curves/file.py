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
from isthmus.types import BadInput, Params

_BENDS = "bends."


def _check_end(curve: Curve, t: float, path: Path, name: str) -> None:
    """Refuse a file that is not the network at this end of the curve."""
    net = curve.export(t)
    own = {key: value.clone() for key, value in net.state_dict().items()}
    load_checkpoint(path, net)
    if not all(torch.equal(value, own[key]) for key, value in net.state_dict().items()):
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
    are the files of the networks at t = 0 and t = 1; their paths are saved relative to the curve's
    file. Raises BadInput where one of them holds another network, or as `save_checkpoint` does.
    """
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
    """Return the file of an endpoint. Raises BadInput where it is missing or has changed."""
    file = Path(given) if given is not None else path.parent / metadata[name]
    if not os.path.isfile(file):  # which is false of a name that is too long, too
        raise BadInput(
            f"{path}, whose {name} {file} is not there",
            expected="its endpoints beside it",
            fix=f"pass {name}=FILE",
        )
    actual = file_sha256(file)
    wanted = metadata[f"{name}_sha256"]
    if actual != wanted:
        raise BadInput(
            f"{file}, the {name} of {path}, which has changed (SHA-256 {actual[:12]})",
            expected=f"the file that the curve was saved with (SHA-256 {wanted[:12]})",
            fix=f"restore it, or pass {name}=FILE",
        )
    return file


def _curve_class(path: Path, kind: str) -> type[Curve]:
    """Return the curve of that name among those that are imported; a file never imports one."""
    known: dict[str, type[Curve]] = {}
    classes: list[type[Curve]] = [*Curve.__subclasses__()]
    for curve in classes:
        classes.extend(curve.__subclasses__())
        known[curve.__name__] = curve
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
    must be the same. A curve of the user's own is known by its class name once its module is
    imported. Raises BadInput where the file holds no curve, an endpoint is missing or has changed,
    or the factory builds another network.
    """
    path = Path(path)
    bends, metadata = _read(path)
    files = [_endpoint(path, name, metadata, file) for name, file in _given(start, end)]
    first, second = (load_checkpoint(file, factory()) for file in files)
    _check_fit(path, bends, first)
    params = dict(first.named_parameters())
    for name, p in params.items():
        p.requires_grad_(name in bends)
    curve = _curve_class(path, metadata["kind"])(first, second, bends=int(metadata["bends"]))
    if len(curve.bends):
        flat = [bends[name].reshape(len(curve.bends), -1) for name in params if name in bends]
        with torch.no_grad():
            curve.bends.copy_(torch.cat(flat, dim=1))
    return curve.eval()


def _given(*files: Path | str | None) -> list[tuple[str, Path | str | None]]:
    return list(zip(("start", "end"), files, strict=True))


def _read(path: Path) -> tuple[Params, dict[str, str]]:
    """Return the bends by the name of their parameter, and the metadata.

    Raises BadInput where the file holds no curve.
    """
    tensors, metadata = read_tensors(path)
    needed = {"kind", "bends", "start", "end", "start_sha256", "end_sha256"}
    counts = {str(len(bend)) if bend.ndim else "" for bend in tensors.values()}
    counts.add(metadata.get("bends", ""))
    whole = needed <= metadata.keys() and len(counts) == 1 and metadata["bends"].isdecimal()
    if not whole or not all(name.startswith(_BENDS) for name in tensors):
        raise BadInput(
            f"{path}, which holds no curve",
            expected="a file that save_curve wrote",
            fix="pass the --out of isthmus connect, or make the curve again",
        )
    return {name.removeprefix(_BENDS): bend for name, bend in tensors.items()}, metadata


def _check_fit(path: Path, bends: Params, net: nn.Module) -> None:
    """Raise BadInput where the bends are not those of the network's parameters."""
    shapes = {name: p.shape for name, p in net.named_parameters()}
    differing = [name for name, bend in bends.items() if shapes.get(name) != bend.shape[1:]]
    if differing:
        raise BadInput(
            f"{path}, whose bends do not fit the network ({abbreviated(differing)})",
            expected="the network that the curve was made of",
            fix="pass the factory (--model) that the curve was made with",
        )
