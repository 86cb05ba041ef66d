"""What a checkpoint file holds: its format, the state dict in it, names without wrappers."""

from __future__ import annotations

import os
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from isthmus.runs.files import check_sums, read_json
from isthmus.runs.notices import notice
from isthmus.runs.wording import abbreviated, absent, first_line
from isthmus.types import BadInput, Params

# Where training scripts put the state dict, the most common first; the averaged weights only where
# nothing else is.
_TRAINED = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params")
_OTHERS = ("module", "model_state", "model_weights")
_AVERAGED = ("state_dict_ema", "ema_state_dict", "model_ema", "ema", "params_ema")
_NESTS = (*_TRAINED, *_OTHERS, *_AVERAGED)


_ZIP = b"PK"

COMPRESSED = "isthmus_compressed"
"""The entry of a file's metadata that says that it is a compressed record and no checkpoint."""


def _head(path: Path) -> bytes:
    """Return the first bytes of a file that is there, readable, and not empty."""
    expected = "a checkpoint file"
    try:
        if path.is_dir():
            raise BadInput(f"{path}, a folder", expected=expected, fix=_inside(path))
        if not path.exists():
            raise absent(path, expected)
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise BadInput(
            f"{path}, which cannot be read ({error.strerror})",
            expected=expected,
            fix="check its name and its rights",
        ) from error
    if not head:
        raise BadInput(
            f"{path}, which is empty (0 bytes)", expected=expected, fix="copy or download it again"
        )
    return head


def _inside(folder: Path) -> str:
    """Return the way out of a folder: the checkpoints that are in it."""
    inside = [
        file.name
        for file in folder.iterdir()
        if file.suffix in (".safetensors", ".pt", ".pth", ".bin")
        or file.name.endswith(".index.json")
    ]
    return f"name the file inside it: {abbreviated(inside)}" if inside else "name the file"


def _format(path: Path) -> Literal["safetensors", "torch"]:
    """Tell by its first bytes, whatever its name, how a file is to be read."""
    head = _head(path)
    if (
        head[8:9] == b"{"
    ):  # first: the length of the header, eight bytes, may begin like a zip or a pickle
        return "safetensors"
    if head.startswith(_ZIP) or head[:1] == b"\x80":
        return "torch"
    if head.startswith(b"version https://git-lfs"):
        what, fix = "the Git LFS pointer to a file", "fetch the file itself: git lfs pull"
    elif head.lstrip().startswith(b"<"):
        what, fix = (
            "a web page and no checkpoint",
            "the download went wrong: open the address and save the file",
        )
    else:
        what, fix = "neither safetensors nor a torch file", "check the path, or copy it again"
    raise BadInput(
        f"{path}, {what}", expected="safetensors, or a state dict saved by torch", fix=fix
    )


def _read_index(path: Path) -> tuple[Params, dict[str, str]]:
    """Return the tensors of a network that is in several safetensors files, of which an index tells
    the names. Raises BadInput where one is missing, or lacks what the index says is in it.
    """
    _head(path)
    index = read_json(path, fix="copy or download it again")
    files = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        raise BadInput(
            f"{path}, JSON without a weight_map",
            expected="the index of a checkpoint in parts",
            fix="check the path",
        )
    state: Params = {}
    for name in sorted(set(files.values())):
        part = path.parent / Path(name).name  # never another folder
        if _format(part) != "safetensors":
            raise BadInput(
                f"{part}, a part that is no safetensors", expected="safetensors", fix="convert it"
            )
        state |= _read_safetensors(part)[0]
    missing = [name for name in files if name not in state]
    if missing:
        raise BadInput(
            f"{path}, whose parts lack {abbreviated(missing)}",
            expected="all tensors of the index",
            fix="copy or download the parts again",
        )
    return {name: state[name] for name in files}, {}


def _read_safetensors(path: Path) -> tuple[Params, dict[str, str]]:
    """Return tensors and metadata. Raises BadInput for what is damaged, or packed."""
    state, metadata = _opened(path)
    if COMPRESSED in metadata:
        raise _compressed(path)
    return state, metadata


def _opened(path: Path) -> tuple[Params, dict[str, str]]:
    if os.fsencode(path).decode(errors="ignore") != str(path):
        raise BadInput(
            f"{path}, whose name is not UTF-8",
            expected="a name that safetensors can read",
            fix="rename the file",
        )
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()  # the file itself is no mapping
            metadata = dict(file.metadata() or {})
            state = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise BadInput(
            f"{path}, safetensors that are cut short or damaged ({first_line(error)})",
            expected="a whole file",
            fix="copy or download it again",
        ) from error
    return state, metadata


def is_packed(path: Path | str) -> bool:
    """Return whether a file is a network with packed weights, as `Compressed.save` writes it.

    False for what cannot be read, too: `read_checkpoint` says why it cannot.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return COMPRESSED in (file.metadata() or {})
    except (SafetensorError, OSError, ValueError, RuntimeError):
        return False


def read_packed(path: Path) -> tuple[Params, str | None]:
    """Return the tensors of a safetensors file and the description in it of how they are packed,
    None where they are not. Raises BadInput where the file is missing, damaged or another.
    """
    if _format(path) != "safetensors":
        return {}, None
    state, metadata = _opened(path)
    check_entries(state, path)
    return state, metadata.get(COMPRESSED)


def _compressed(path: Path) -> BadInput:
    """Return the refusal of a file of packed weights; it names the plain file beside it."""
    plain = path.with_name("network.safetensors")
    way_out = (
        "pass it to a command that measures, as isthmus evaluate does, or load it by "
        "isthmus.compression.Compressed.load(path, network)"
    )
    return BadInput(
        f"{path}, a compressed record, whose weights are packed",
        expected="an ordinary checkpoint",
        fix=f"pass {plain}, the same network unpacked" if plain.exists() else way_out,
    )


def _refusal(path: Path, error: Exception) -> BadInput:
    """Say why torch did not read the file as tensors alone."""
    harmless = "no code was run; have model.state_dict() saved alone, best as safetensors"
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    if named and named[1].startswith("torch.nn."):
        got = (
            f"{path}, a whole pickled network ({named[1]}), which only running its code could load"
        )
        return BadInput(got, expected="a state dict", fix=f"it was refused, {harmless}")
    if named:
        got = f"{path}, a pickle with code in it: loading it would call {named[1]}"
        return BadInput(
            got, expected="tensors and nothing that runs", fix=f"it was refused, {harmless}"
        )
    if "TorchScript" in str(error):
        return BadInput(
            f"{path}, a TorchScript archive, which is code", expected="a state dict", fix=harmless
        )
    if isinstance(error, pickle.UnpicklingError):
        got = f"{path}, a pickle that holds more than tensors, or is damaged"
        return BadInput(
            got, expected="a state dict saved by torch", fix=f"it was refused, {harmless}"
        )
    return BadInput(
        f"{path}, a torch file that is cut short or damaged ({first_line(error)})",
        expected="a whole file",
        fix="copy or download it again",
    )


def _read_torch(path: Path) -> Any:
    try:
        if _head(path).startswith(_ZIP):  # older files of torch have no sums
            check_sums(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    # what an unpickler raises on a file that is cut short or made to harm is open-ended
    except Exception as error:
        raise _refusal(path, error) from error


def _is_state(saved: Any) -> bool:
    return isinstance(saved, Mapping) and any(isinstance(value, Tensor) for value in saved.values())


def _states(saved: Any, depth: int = 4) -> list[tuple[str, Mapping[Any, Any]]]:
    """Return the state dicts, by name, among what a training script saved: one that is nested, or
    itself, or several.

    The depth is limited: a file made to harm may hold a mapping that holds itself.
    """
    if not isinstance(saved, Mapping) or not depth:
        return []
    for name in _NESTS:
        inner = _states(saved.get(name), depth - 1)
        if inner:
            return inner
    if _is_state(saved):
        return [("", saved)]
    return [(str(name), value) for name, value in saved.items() if _is_state(value)]


def _state_in(saved: Any, path: Path) -> Params:
    """Return the one state dict among what a training script saved."""
    states = _states(saved)
    if not states:
        held = f"a {type(saved).__name__}"
        if isinstance(saved, Mapping):
            held = f"entries {abbreviated(map(str, saved))}" if saved else "nothing"
        raise BadInput(
            f"{path}, which holds {held}", expected="a state dict", fix="save model.state_dict()"
        )
    if len(states) > 1:
        raise BadInput(
            f"{path}, which holds {len(states)} sets of weights "
            f"({abbreviated(name for name, _ in states)})",
            expected="the state dict of one network",
            fix="save the one that is meant on its own",
        )
    _tell_of_averaged(saved, path)
    return dict(states[0][1])


def _tell_of_averaged(saved: Any, path: Path) -> None:
    """Give notice of averaged weights beside those that are read."""
    nests = [name for name in _NESTS if isinstance(saved, Mapping) and _states(saved.get(name))]
    averaged = [name for name in nests[1:] if name in _AVERAGED]
    if averaged and nests[0] not in _AVERAGED:
        notice(
            f"{path}: {nests[0]} is read; it holds averaged weights too ({averaged[0]}): to take "
            "those, save them on their own"
        )


def check_entries(state: Mapping[Any, Any], path: Path | str) -> None:
    """Refuse what is no ordinary tensor under a name."""
    for name, value in state.items():
        oddity = _oddity(name, value)
        if oddity:
            raise BadInput(
                f"{path}, where {oddity}",
                expected="dense tensors by name",
                fix="save the state dict of an ordinary, dense, unquantized network",
            )


def _oddity(name: Any, value: Any) -> str | None:
    """Return what is odd about an entry of a state dict; None where it is an ordinary one."""
    if not isinstance(name, str):
        return f"the name of an entry is {name!r} ({type(name).__name__}), no text"
    if not isinstance(value, Tensor):
        return f"{name!r} is no ordinary tensor ({type(value).__name__})"
    if value.is_meta:
        return f"{name!r} has a shape but no values (it is on the meta device)"
    if value.layout != torch.strided or value.is_quantized:
        return f"{name!r} is no ordinary tensor ({value.layout} {value.dtype})"
    return None


def read_tensors(path: Path) -> tuple[Params, dict[str, str]]:
    """Return the tensors under the names they have in the file, and its metadata."""
    if path.name.endswith(".index.json"):
        state, metadata = _read_index(path)
    elif _format(path) == "safetensors":
        state, metadata = _read_safetensors(path)
    else:
        state, metadata = _state_in(_read_torch(path), path), {}
    check_entries(state, path)
    return {name: value.detach() for name, value in state.items()}, metadata


def _without(part: str, state: Params) -> Params:
    """Drop a part of the names wherever it stands, unless that would make two names one."""
    renamed = {
        ".".join(p for p in name.split(".") if p != part): value for name, value in state.items()
    }
    return renamed if len(renamed) == len(state) and "" not in renamed else state


def _shared_part(state: Params) -> str | None:
    """Return the first part of all names where it is one and the same (`module`, `model`), else
    None.
    """
    first = {name.partition(".")[0] for name in state}
    return first.pop() if len(first) == 1 and all("." in name for name in state) else None


def _without_first(state: Params) -> Params:
    return {name.partition(".")[2]: value for name, value in state.items()}


def _unwrapped(state: Params) -> Params:
    """Drop what torch.compile and DataParallel put before the names, and the counter of an averaged
    model.
    """
    state = _without("_orig_mod", state)
    if _shared_part({n: v for n, v in state.items() if n != "n_averaged"}) == "module":
        state = {n: v for n, v in state.items() if n != "n_averaged"}
    while _shared_part(state) == "module":
        state = _without_first(state)
    return state


def read_checkpoint(path: Path | str) -> tuple[Params, dict[str, str]]:
    """Return a file's state dict, on the CPU, and its metadata (that of torch files is empty). No
    code in it is run.

    An index (model.safetensors.index.json) stands for the parts it names, which lie beside it.
    Nested layouts (`state_dict`, `model`, `net`, ...) and the prefixes `module.` and `_orig_mod.`
    are unwrapped. Raises BadInput where the file is missing, empty, a folder, cut short, a web
    page, or anything but tensors.
    """
    state, metadata = read_tensors(Path(path))
    return _unwrapped(state), metadata


def renamings(state: Params) -> Iterator[Params]:
    """Yield the state under its own names, then with less and less before, and at last between, the
    names.
    """
    yield state
    for shorter in (_unwrapped(state), _without("module", _unwrapped(state))):
        yield shorter
        while _shared_part(shorter):
            shorter = _without_first(shorter)
            yield shorter
