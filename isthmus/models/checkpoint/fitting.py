"""A state dict into a network: which name belongs where, and whether everything fits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, overload

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from isthmus.models.checkpoint.reading import (
    check_entries,
    read_checkpoint,
    read_tensors,
    renamings,
)
from isthmus.models.view import copied
from isthmus.runs.notices import notice
from isthmus.runs.wording import abbreviated, counted
from isthmus.types import BadInput, Params

M = TypeVar("M", bound=nn.Module)

# What profilers add to every module they count.
_COUNTERS = {"total_ops", "total_params"}

_MEANS = {"mean", "new_mean"}
_DEVIATIONS = {"std", "new_std"}


@dataclass(frozen=True)
class _Wanted:
    """The state dict of a network: its tensors, and for every key all keys of the same tensor."""

    kind: str
    tensors: Params
    twins: Mapping[str, list[str]]

    @classmethod
    def of(cls, module: nn.Module) -> _Wanted:
        held = module.state_dict(keep_vars=True)
        owners: dict[int, list[str]] = {}
        for name, tensor in held.items():
            owners.setdefault(id(tensor), []).append(name)
        twins = {name: owners[id(tensor)] for name, tensor in held.items()}
        return cls(type(module).__name__, module.state_dict(), twins)

    def missing(self, state: Params) -> list[str]:
        """Return the keys that a state lacks.

        Files older than torch 0.4.1 do not count the batches of BatchNorm, and of tied weights any
        one name will do.
        """
        return [
            name
            for name in self.tensors
            if name.rpartition(".")[2] != "num_batches_tracked"
            and not any(twin in state for twin in self.twins[name])
        ]

    def extra(self, state: Params) -> list[str]:
        """Return the keys of a state that the network does not have."""
        return [name for name in state if name not in self.tensors]

    def fits(self, state: Params) -> bool:
        """Return whether a state has every key, and no other."""
        return not self.missing(state) and not self.extra(state)


# ---- names


def _named_alike(path: Path, state: Params, module: nn.Module, wanted: _Wanted) -> Params:
    """Return the part of a state that is the network's, under the network's names.

    Tried in turn: with less and less before the names; without what profilers add; as one part of
    a larger module; and as the module itself renames what older versions of it wrote. Without
    success, the names that agree most.
    """
    counted = {name for name in state if name.rpartition(".")[2] in _COUNTERS}
    state = {n: v for n, v in state.items() if n not in counted - wanted.tensors.keys()}
    candidates = list(renamings(state))
    best = max(candidates, key=lambda names: len(names.keys() & wanted.tensors.keys()))
    if wanted.fits(best):
        return best
    return (
        _cut_out(path, state, wanted)
        or next(filter(None, (_renamed_by(module, names, wanted) for names in candidates)), None)
        or best
    )


def _cut_out(path: Path, state: Params, wanted: _Wanted) -> Params | None:
    """Return the network where it is one part of a larger module, with notice of the rest.

    Raises BadInput where it is there several times, or behind a normalization of its own.
    """
    copies = _copies(state, wanted)
    prefix = next((p for p in copies if wanted.fits(_below(p, state))), None)
    if prefix is None:
        return None
    network = copies[prefix]
    if any(not torch.equal(t, copy[n]) for copy in copies.values() for n, t in network.items()):
        named = abbreviated(prefix or "without a prefix" for prefix in copies)
        raise BadInput(
            f"{path}, which holds the network {len(copies)} times ({named})",
            expected="the state dict of one network",
            fix="save the one that is meant on its own",
        )
    used = {prefix + name for prefix, copy in copies.items() for name in copy}
    rest = {name: t for name, t in state.items() if name not in used}
    _check_unnormalized(path, prefix, rest, wanted)
    if rest:
        notice(f"{path}: the network is under {prefix}, without {abbreviated(rest)}")
    return network


def _copies(state: Params, wanted: _Wanted) -> dict[str, Params]:
    """Return by its prefix, the shortest first, every part of a state that has all keys of the
    network; other keys may stand beside them, such as an average of the network inside it.
    """
    first = next(iter(wanted.missing({})), None)
    if first is None:
        return {}
    prefixes = {n.removesuffix(first) for n in state if f".{n}".endswith(f".{first}")}
    parts = {prefix: _below(prefix, state) for prefix in sorted(prefixes, key=len)}
    return {
        prefix: {name: t for name, t in part.items() if name in wanted.tensors}
        for prefix, part in parts.items()
        if not wanted.missing(part)
    }


def _below(prefix: str, state: Params) -> Params:
    return {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}


def _check_unnormalized(path: Path, prefix: str, rest: Params, wanted: _Wanted) -> None:
    """Raise BadInput where what stands beside the network normalizes its input."""
    moving = [
        name
        for name, value in rest.items()
        if (name.rpartition(".")[2] in _MEANS and bool((value != 0).any()))
        or (name.rpartition(".")[2] in _DEVIATIONS and bool((value != 1).any()))
    ]
    if moving:
        raise BadInput(
            f"{path}, where the {len(wanted.tensors)} keys of {wanted.kind} are under {prefix} and "
            f"its input is normalized outside it ({abbreviated(moving)})",
            expected="a network that normalizes its own input",
            fix="let the factory put that normalization in front, as a layer of these names",
        )


def _renamed_by(module: nn.Module, state: Params, wanted: _Wanted) -> Params | None:
    """Return the state under the names that the module itself gives it when it loads it.

    Modules rename what older versions of them wrote (torch's weight_norm, torchvision's
    VisionTransformer) in hooks of their own. They run on a copy, which takes the file's tensors as
    they are.
    """
    try:
        twin = copied(module)
        loaded = twin.load_state_dict(dict(state), strict=False, assign=True)
    except Exception:  # a module's own hooks may raise anything
        return None
    missing = set(loaded.missing_keys)
    renamed = {n: v.detach() for n, v in twin.state_dict().items() if n not in missing}
    return None if loaded.unexpected_keys or not wanted.fits(renamed) else renamed


# ---- checks


def _check_network(wanted: _Wanted) -> None:
    """Raise BadInput where the network cannot take weights."""
    unsized = [name for name, value in wanted.tensors.items() if is_lazy(value)]
    if unsized:
        raise BadInput(
            f"a network whose {abbreviated(unsized)} have no shape yet",
            expected="one that has met an input",
            fix="run one forward pass in the model factory",
        )
    if any(isinstance(value, Tensor) and value.is_meta for value in wanted.tensors.values()):
        raise BadInput(
            "a network on the meta device, whose weights have no memory",
            expected="a network that can hold weights",
            fix="build it outside torch.device('meta'), or call to_empty(device='cpu') on it",
        )
    check_entries(wanted.tensors, wanted.kind)


def _check_keys(path: Path, state: Params, wanted: _Wanted) -> None:
    missing = wanted.missing(state)
    extra = wanted.extra(state)
    if missing or extra:
        lacks = f"lacks {len(missing)} of the keys ({abbreviated(missing)})" if missing else ""
        has = f"has {len(extra)} others ({abbreviated(extra)})" if extra else ""
        raise BadInput(
            f"{path}, which {' and '.join(filter(None, [lacks, has]))}"
            + "".join(_elsewhere(state, missing)),
            expected=f"the {counted(len(wanted.tensors), 'key', 'keys')} of {wanted.kind}",
            fix="pass the factory of the network that was saved, with its depth, width and classes",
        )
    for name, twin in ((name, wanted.twins[name][0]) for name in state):
        if twin != name and twin in state and not torch.equal(state[name], state[twin]):
            raise BadInput(
                f"{path}, where {twin} and {name} differ",
                expected=f"one value: {wanted.kind} ties them",
                fix="pass a factory that does not tie them",
            )


def _elsewhere(state: Params, missing: list[str]) -> Iterator[str]:
    """Yield how many of the missing keys are there under which prefix, where they are."""
    prefixes = Counter(
        name.removesuffix(key) for key in missing for name in state if name.endswith(f".{key}")
    )
    for prefix, count in prefixes.most_common(1):
        yield f"; {count} of those it lacks are there under {prefix}"


def _check_shapes(path: Path, state: Params, wanted: Params) -> None:
    differing = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if differing:
        how_many = counted(len(differing), "tensor has", "tensors have")
        raise BadInput(
            f"{path}, where {how_many} another shape: {abbreviated(differing)}",
            expected="the shapes of the network",
            fix="pass the factory of the network that was saved, with its width, its number of "
            "classes (--classes) and of channels (timm:NAME,in_chans=1)",
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


def _fitted(path: Path, state: Params, module: nn.Module) -> Params:
    """Return the tensors, named and typed as the module's. Raises BadInput where one misfits."""
    wanted = _Wanted.of(module)
    _check_network(wanted)
    state = _named_alike(path, state, module, wanted)
    _check_keys(path, state, wanted)
    _check_shapes(path, state, wanted.tensors)
    cast = {name: _cast(path, name, value, wanted.tensors[name]) for name, value in state.items()}
    odd = _odd_numbers(cast, wanted.tensors)
    if odd and not _odd_numbers({name: state[name] for name in odd}, wanted.tensors):
        hold = counted(len(odd), "tensor holds", "tensors hold")
        raise BadInput(
            f"{path}, where {hold} numbers that {cast[odd[0]].dtype} cannot hold: "
            f"{abbreviated(odd)}",
            expected="finite weights",
            fix="build the network in a wider type",
        )
    check_numbers(path, cast, wanted.tensors)
    return cast


def _odd_numbers(state: Params, wanted: Params) -> list[str]:
    """Return the names of tensors with numbers that are not finite and no mask of the network."""
    return [name for name, value in state.items() if not _is_finite(value, wanted[name])]


def check_numbers(path: Path, state: Params, wanted: Params) -> None:
    """Raise BadInput where weights are not finite, or a variance is below zero.

    `wanted` holds the tensors of the new network, of the same names and shapes: what is infinite
    there may be so in the state.
    """
    odd = _odd_numbers(state, wanted)
    if odd:
        hold = counted(len(odd), "tensor holds", "tensors hold")
        raise BadInput(
            f"{path}, where {hold} numbers that are NaN or infinite: {abbreviated(odd)}",
            expected="finite weights",
            fix="take an earlier checkpoint: this run had diverged",
        )
    _check_variances(path, state)


def _check_variances(path: Path, state: Params) -> None:
    """Raise BadInput where the running variance of a normalization is below zero: its root would
    be NaN.
    """
    below = [
        name
        for name, value in state.items()
        if name.rpartition(".")[2] == "running_var"
        and value.is_floating_point()
        and bool((value < 0).any())
    ]
    if below:
        raise BadInput(
            f"{path}, where {counted(len(below), 'variance is', 'variances are')} below zero: "
            f"{abbreviated(below)}",
            expected="variances of 0 or more",
            fix="take another checkpoint: averages and differences of networks can be such",
        )


@overload
def load_checkpoint(path: Path | str) -> Params: ...


@overload
def load_checkpoint(path: Path | str, module: M) -> M: ...


def load_checkpoint(path: Path | str, module: M | None = None) -> Params | M:
    """Return the checkpoint's state dict; given a module, fill that with it and return the module,
    in eval mode.

    Names may carry prefixes that all share (`module.`, `_orig_mod.`, `model.`, repeated and
    combined), or be older ones that the module itself renames; the network may be one part of what
    was saved (`model.` beside `criterion.`), with notice of the rest; floats may be of another
    precision. A key may be missing where the module ties it to one that is there, and so may
    `num_batches_tracked`. No code in the file is run, and on any error the module is as it was.

    Raises BadInput where the file cannot be read (see `read_checkpoint`), keys are missing or
    unknown, shapes or kinds of numbers differ, tied weights differ, weights are not finite, or
    variances are below zero; each names the tensors.
    """
    if module is None:
        return read_checkpoint(path)[0]
    state, _ = read_tensors(Path(path))
    module.load_state_dict(_fitted(Path(path), state, module), strict=False)
    return module.eval()
