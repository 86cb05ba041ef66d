"""Checkpoints in and out: what a file holds is read as tensors and never run.

Networks are written as safetensors, with their origin in the file's metadata. They are read from
safetensors, or from torch's own files as far as these hold tensors alone (`weights_only=True`).
Everything that can be wrong with a file is found before one weight of a network changes. No code is
ever called."""

from __future__ import annotations

import json
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from isthmus.runs.files import write_atomically
from isthmus.runs.versions import versions
from isthmus.runs.wording import abbreviated, first_line, suggestion
from isthmus.types import BadInput, Params

M = TypeVar("M", bound=nn.Module)


# Where training scripts put the state dict, the most common first; the averaged weights only where
# nothing else is.
_NESTS = (
    *(
        "state_dict",
        "model_state_dict",
        "model",
        "net",
        "network",
        "weights",
        "params",
        "module",
        "model_state",
    ),
    *("model_weights", "state_dict_ema", "ema_state_dict", "model_ema", "ema", "params_ema"),
)


# ---- reading
def _head(path: Path) -> bytes:
    """Return the first bytes of a file that is there, readable, and not empty."""
    expected = "a checkpoint file"
    if path.is_dir():
        inside = [
            file.name
            for file in path.iterdir()
            if file.suffix in (".safetensors", ".pt", ".pth", ".bin")
        ]
        fix = f"name the file inside it: {abbreviated(inside)}" if inside else "name the file"
        raise BadInput(f"{path}, a folder", expected=expected, fix=fix)
    if not path.exists():
        around = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        raise BadInput(
            f"{path}, which does not exist", expected=expected, fix=suggestion(path.name, around)
        )
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise BadInput(
            f"{path}, which cannot be read ({error})", expected=expected, fix="check its rights"
        ) from error
    if not head:
        raise BadInput(
            f"{path}, which is empty (0 bytes)", expected=expected, fix="copy or download it again"
        )
    return head


def _format(path: Path) -> Literal["safetensors", "torch"]:
    """Tell by its first bytes, whatever its name, how a file is to be read."""
    head = _head(path)
    if (
        head[8:9] == b"{"
    ):  # first: the length of the header, eight bytes, may begin like a zip or a pickle
        return "safetensors"
    if head[:2] == b"PK" or head[:1] == b"\x80":
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


def _read_safetensors(path: Path) -> tuple[Params, dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(
                file.metadata() or {}
            )
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise BadInput(
            f"{path}, safetensors that are cut short or damaged ({first_line(error)})",
            expected="a whole file",
            fix="copy or download it again",
        ) from error


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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    # what an unpickler raises on a file that is cut short or made to harm is open-ended
    except Exception as error:
        raise _refusal(path, error) from error


def _is_state(found: Any) -> bool:
    return isinstance(found, Mapping) and any(isinstance(value, Tensor) for value in found.values())


def _states(found: Any, depth: int = 4) -> list[tuple[str, Mapping[Any, Any]]]:
    """Return the state dicts, by name, among what a training script saved: one that is nested, or
    itself, or several.

    The depth is limited: a file made to harm may hold a mapping that holds itself.
    """
    if not isinstance(found, Mapping) or not depth:
        return []
    for name in _NESTS:
        inner = _states(found.get(name), depth - 1)
        if inner:
            return inner
    if _is_state(found):
        return [("", found)]
    return [(str(name), value) for name, value in found.items() if _is_state(value)]


def _state_in(found: Any, path: Path) -> Params:
    """Return the one state dict among what a training script saved."""
    states = _states(found)
    if not states:
        held = (
            f"entries {abbreviated(map(str, found))}"
            if isinstance(found, Mapping)
            else f"a {type(found).__name__}"
        )
        raise BadInput(
            f"{path}, which holds {held}", expected="a state dict", fix="save model.state_dict()"
        )
    if len(states) > 1:
        raise BadInput(
            f"{path}, which holds {len(states)} sets of weights ({abbreviated(name for name, _ in states)})",
            expected="the state dict of one network",
            fix="save the one that is meant on its own",
        )
    return dict(states[0][1])


def _check_entries(state: Mapping[Any, Any], path: Path | str) -> None:
    """Refuse what is no ordinary tensor under a name."""
    for name, value in state.items():
        if not (
            isinstance(name, str)
            and isinstance(value, Tensor)
            and (value.layout, value.is_quantized, value.is_meta) == (torch.strided, False, False)
        ):
            kind = (
                f"{value.layout} {value.dtype}"
                if isinstance(value, Tensor)
                else type(value).__name__
            )
            raise BadInput(
                f"{path}, where {name!r} is no ordinary tensor ({kind})",
                expected="dense tensors by name",
                fix="save the state dict of an ordinary, dense, unquantized network",
            )


def read_tensors(path: Path) -> tuple[Params, dict[str, str]]:
    """Return the tensors under the names they have in the file, and its metadata."""
    if _format(path) == "safetensors":
        state, metadata = _read_safetensors(path)
    else:
        state, metadata = _state_in(_read_torch(path), path), {}
    _check_entries(state, path)
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

    Nested layouts (`state_dict`, `model`, `net`, ...) and the prefixes `module.` and `_orig_mod.`
    are unwrapped. Raises BadInput where the file is missing, empty, a folder, cut short, a web
    page, or anything but tensors."""
    state, metadata = read_tensors(Path(path))
    return _unwrapped(state), metadata


# ---- into a network
def _renamings(state: Params) -> Iterator[Params]:
    """Yield the state under its own names, then with less and less before, and at last between, the
    names.
    """
    yield state
    for shorter in (_unwrapped(state), _without("module", _unwrapped(state))):
        yield shorter
        while _shared_part(shorter):
            shorter = _without_first(shorter)
            yield shorter


def _twins(module: nn.Module) -> dict[str, list[str]]:
    """Return, for every state-dict key, all keys of the same tensor."""
    owners: dict[int, list[str]] = {}
    held = module.state_dict(keep_vars=True)
    for name, tensor in held.items():
        owners.setdefault(id(tensor), []).append(name)
    return {name: owners[id(tensor)] for name, tensor in held.items()}


def _check_keys(path: Path, state: Params, module: nn.Module, wanted: Params) -> None:
    twins = _twins(module)
    # Files older than torch 0.4.1 do not count the batches of BatchNorm, and of tied weights any
    # one name will do.
    missing = [
        name
        for name in wanted
        if name.rpartition(".")[2] != "num_batches_tracked"
        and not any(twin in state for twin in twins[name])
    ]
    extra = state.keys() - wanted.keys()
    if missing or extra:
        lacks = f"lacks {len(missing)} of them ({abbreviated(missing)})" if missing else ""
        has = f"has {len(extra)} others ({abbreviated(extra)})" if extra else ""
        raise BadInput(
            f"{path}, which {' and '.join(filter(None, [lacks, has]))}",
            expected=f"the {len(wanted)} keys of {type(module).__name__}",
            fix="pass the factory of the network that was saved, with its depth, width and classes",
        )
    for name, twin in ((name, twins[name][0]) for name in state):
        if twin != name and twin in state and not torch.equal(state[name], state[twin]):
            raise BadInput(
                f"{path}, where {twin} and {name} differ",
                expected=f"one value: {type(module).__name__} ties them",
                fix="pass a factory that does not tie them",
            )


def _check_shapes(path: Path, state: Params, wanted: Params) -> None:
    differing = [
        name for name in wanted if name in state and state[name].shape != wanted[name].shape
    ]
    if differing:
        shown = [
            f"{n} {tuple(state[n].shape)} instead of {tuple(wanted[n].shape)}" for n in differing
        ]
        raise BadInput(
            f"{path}, where {len(differing)} tensors have another shape: {abbreviated(shown)}",
            expected="the shapes of the network",
            fix="pass the factory of the network that was saved, with its width and its number of classes",
        )


def _number(dtype: torch.dtype) -> str:
    """Return the kind of number, within which a type may change without a change of meaning."""
    if dtype == torch.bool:
        return "truth value"
    return "complex" if dtype.is_complex else "float" if dtype.is_floating_point else "integer"


def _cast(path: Path, name: str, value: Tensor, target: Tensor) -> Tensor:
    """Return the value in the type of the network's tensor. Raises BadInput where that would change
    what it means.
    """
    if _number(value.dtype) != _number(target.dtype):
        raise BadInput(
            f"{path}, where {name} is of type {value.dtype}",
            expected=f"{target.dtype}, or another {_number(target.dtype)} type",
            fix="check that file and factory are of one network",
        )
    cast = value.to(target.dtype)
    if not cast.is_floating_point() and not torch.equal(cast.to(value.dtype), value):
        raise BadInput(
            f"{path}, where {name} holds numbers beyond {target.dtype}",
            expected="numbers that the network can hold",
            fix="check that file and factory are of one network",
        )
    return cast


def _is_finite(value: Tensor, target: Tensor) -> bool:
    """Whether all numbers are finite, or infinite where the new network has the same (a mask of an
    attention).
    """
    value = (
        value.float() if value.is_floating_point() and value.element_size() == 1 else value
    )  # 8-bit floats
    odd = ~torch.isfinite(value)
    return not odd.any() or bool((value[odd] == target.detach().to(value)[odd]).all())


def _checked(path: Path, state: Params, module: nn.Module) -> Params:
    """Return the tensors, named and typed as the module's; raise BadInput at whatever does not fit."""
    wanted: Params = module.state_dict()
    unsized = [name for name, value in wanted.items() if is_lazy(value)]
    if unsized:
        raise BadInput(
            f"a network whose {abbreviated(unsized)} have no shape yet",
            expected="one that has met an input",
            fix="run one forward pass in the model factory",
        )
    _check_entries(wanted, type(module).__name__)
    state = max(
        _renamings(state), key=lambda renamed: len(renamed.keys() & wanted.keys())
    )  # the first of the best
    _check_keys(path, state, module, wanted)
    _check_shapes(path, state, wanted)
    cast = {name: _cast(path, name, value, wanted[name]) for name, value in state.items()}
    odd = [name for name, value in cast.items() if not _is_finite(value, wanted[name])]
    if odd:
        grown = all(_is_finite(state[name], wanted[name]) for name in odd)
        what = f"that {cast[odd[0]].dtype} cannot hold" if grown else "that are NaN or infinite"
        raise BadInput(
            f"{path}, where {len(odd)} tensors hold numbers {what}: {abbreviated(odd)}",
            expected="finite weights",
            fix="build the network in a wider type"
            if grown
            else "take an earlier checkpoint: this run had diverged",
        )
    return cast


@overload
def load_checkpoint(path: Path | str) -> Params: ...


@overload
def load_checkpoint(path: Path | str, module: M) -> M: ...


def load_checkpoint(path: Path | str, module: M | None = None) -> Params | M:
    """Return the checkpoint's state dict; given a module, fill that with it and return the module,
    in eval mode.

    Names may carry prefixes that all share (`module.`, `_orig_mod.`, `model.`, repeated and
    combined), floats may be of another precision. A key may be missing where the module ties it to
    one that is there, and so may `num_batches_tracked`. No code in the file is run, and on any
    error the module is as it was.

    Raises BadInput where the file cannot be read (see `read_checkpoint`), keys are missing or
    unknown, shapes or kinds of numbers differ, tied weights differ, or weights are not finite; each
    names the tensors."""
    if module is None:
        return read_checkpoint(path)[0]
    state, _ = read_tensors(Path(path))
    module.load_state_dict(_checked(Path(path), state, module), strict=False)
    return module.eval()


# ---- writing
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
    to be the same."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= size:
            file.seek(8)
            file.write(text.ljust(size))


def write_tensors(state: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> Path:
    """Write tensors and metadata as safetensors, atomically, with the versions that computed them."""
    computed_by = {f"{name}_version": version for name, version in versions().items()}
    tensors = _independent(state)

    def write(temporary: Path) -> None:
        try:
            save_file(tensors, temporary, metadata={"format": "pt", **metadata, **computed_by})
        except SafetensorError as error:  # of a full disk, too
            raise OSError(first_line(error)) from error
        _sort_metadata(temporary)

    return write_atomically(path, write)


def save_checkpoint(
    module: nn.Module | Mapping[str, Tensor],
    path: Path | str,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a module's state dict, or a given one, as safetensors, whole or not at all, and return
    the path.

    Every key is kept; tensors that share memory are written once each. The metadata goes into the
    file, with the versions of isthmus, torch, Python and numpy. The same content gives the same
    bytes. Raises BadInput where an entry is no dense tensor, the metadata is not text, or the file
    cannot be written."""
    state = module.state_dict() if isinstance(module, nn.Module) else module
    _check_entries(state, type(module).__name__)
    check_metadata(metadata or {})
    return write_tensors(state, Path(path), metadata or {})
