"""Which channels of a network may be permuted together, and networks with permuted channels.

Source: Entezari et al., ICLR 2022 (permutation invariance); Ainsworth et al., Git Re-Basin, ICLR
2023.

Where we depart: nobody writes a specification per architecture. One forward pass on an example is
followed operation by operation, which needs no symbolic trace: lengths, shapes and Python control
flow are those of the run, and what happens inside torch's own layers (attention, recurrent ones) is
seen too. What has no rule, or plays a part of its own, stays where it is and is listed with the
reason. Every permuted network is compared with the original before it is handed out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from isthmus.models.channels.labels import Blocks, Key, mix
from isthmus.models.channels.trace import ReadsValue, Tracer
from isthmus.models.forward import as_input, computing_type, eval_mode, logits_of, outputs
from isthmus.models.view import copied
from isthmus.runs.wording import first_line
from isthmus.types import BadInput, Params

_OUTPUTS = "it makes the network's outputs"

Permutations = tuple[Tensor, ...]
"""For each group one permutation (size,) int64: channel i of the permuted network is channel p[i]
of the original.
"""


@dataclass(frozen=True, eq=False)
class Place:
    """Where a group's channels stand in a parameter or buffer: row i of `index` (size, block) is
    channel i.

    `axis` None means that the indices are of the flattened tensor.
    """

    name: str
    axis: int | None
    index: Tensor


@dataclass(frozen=True, eq=False)
class Sighting:
    """Where a group's channels are seen: row i of `index` along one axis of what a product reads or
    makes.
    """

    product: int
    reads: bool
    axis: int
    index: Tensor


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that any permutation may reorder, if it does so at all places at once."""

    size: int
    places: tuple[Place, ...]
    watches: tuple[Sighting, ...] = field(repr=False, default=())


@dataclass(frozen=True, eq=False)
class Groups:
    """The permutation symmetries of a network: its groups, and why the rest is fixed, by parameter
    name.

    A parameter stands in `fixed` if one of its axes cannot be permuted, or only in part; input
    channels and classes are among them. `example` is what the network was followed on. `made`
    counts the channels that its layers make, those that can move and all, without the outputs.
    """

    groups: tuple[Group, ...]
    fixed: dict[str, str]
    example: Tensor = field(repr=False)
    made: tuple[int, int] = (0, 0)

    def __iter__(self) -> Iterator[Group]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def summary(self) -> str:
        """How many of the channels that the layers make can move, in words."""
        return "{} of {} channels can move".format(*self.made)

    @property
    def channels(self) -> int:
        """How many channels can move."""
        return sum(group.size for group in self.groups)


@contextmanager
def plain_attention() -> Iterator[None]:
    """Compute attention from products, so that they are seen and numbered alike on every device."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _run(net: nn.Module, example: Tensor, blocks: Blocks | None, leaves: frozenset[str]) -> Tracer:
    """Follow one forward pass. Raises ReadsValue where the network asks for the value of an
    activation.
    """
    tracer = Tracer(net, blocks, leaves)
    example = example.clone()  # the network may write into it
    hooks = []
    for name, part in net.named_modules():
        if name:
            hooks += [
                part.register_forward_pre_hook(lambda _, __, name=name: tracer.enter(name)),
                part.register_forward_hook(
                    lambda part, args, kwargs, out, name=name: tracer.leave(
                        name, part, (args, kwargs), out
                    ),
                    with_kwargs=True,
                ),
            ]
    try:
        with torch.no_grad(), eval_mode(net), plain_attention():
            tracer.put(example, tracer.fixed(example))
            with tracer:
                logits = logits_of(net(example))
    finally:
        for hook in hooks:
            hook.remove()
    if id(logits) in tracer.labels:
        tracer.pin(tracer.of(logits).atom, _OUTPUTS)
    return tracer


def _follow(net: nn.Module, example: Tensor, blocks: Blocks | None = None) -> Tracer:
    """Follow a forward pass, going round modules whose way depends on the values they get."""
    leaves: frozenset[str] = frozenset()
    while True:
        try:
            return _run(net, example, blocks, leaves)
        except BadInput:
            raise
        except ReadsValue as reads:
            name = str(reads.args[0])
            if not name or name in leaves:
                raise BadInput(
                    "a network whose own forward reads the value of an activation",
                    expected="a course that does not depend on the input",
                    fix="move that part into a submodule, which is then left as it is",
                ) from None
            leaves |= {name}
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise BadInput(
                f"a network that cannot be followed on images {tuple(example.shape[1:])} "
                f"({first_line(error)})",
                expected="a forward pass on the example",
                fix="pass an example of the shape it was built for",
            ) from error


@dataclass
class _Classes:
    """Atoms that move as one, sorted out by what may be exchanged for what."""

    tracer: Tracer

    def __post_init__(self) -> None:
        t = self.tracer
        self.root = t.roots
        self.reason: dict[int, str] = {}
        for atoms, reason in t.pins:
            for root in t.rooted(atoms).tolist():
                self.reason.setdefault(root, reason)
        for name, axis in t.places:
            others = [
                key for key in t.places if key[0] == name and (key[1] is None) != (axis is None)
            ]
            if others:
                for root in t.rooted(t.places[name, axis][0]).tolist():
                    self.reason.setdefault(
                        root, "it is used both as a weight and element by element"
                    )
        self.members: dict[int, list[int]] = defaultdict(list)
        for atom, root in enumerate(self.root.tolist()):
            self.members[root].append(atom)
        self.color = t.colors()
        colors = self.color.tolist()
        for root, members in self.members.items():
            if len({colors[atom] for atom in members}) < len(members):
                self.reason.setdefault(root, "a channel stands twice in the same part")

    def alike(self) -> list[list[int]]:
        """Return the roots that may be exchanged, two or more in each list, in the order of their
        first atoms.
        """
        key = torch.zeros(int(self.root.max()) + 1 if len(self.root) else 0, dtype=torch.int64)
        key.index_add_(0, self.root, mix(self.color))
        by_color: dict[tuple[int, int], list[int]] = defaultdict(list)
        for root, atoms in sorted(self.members.items(), key=lambda item: min(item[1])):
            if root not in self.reason:
                by_color[int(key[root]), len(atoms)].append(root)
        for roots in by_color.values():
            if len(roots) == 1:
                self.reason.setdefault(
                    roots[0],
                    "no other channel plays its part: the input, a constant or a position tells it "
                    "apart",
                )
        return [roots for roots in by_color.values() if len(roots) > 1]


def _rows(classes: _Classes, roots: list[int], atom: Tensor, tag: Tensor) -> Tensor | None:
    """Return the indices along an axis, one row per class, alike in all rows; None where it holds
    none of them.
    """
    row_of = torch.full((len(classes.root),), -1)
    row_of[torch.tensor(roots)] = torch.arange(len(roots))
    row = row_of[classes.tracer.rooted(atom)]
    index = (row >= 0).nonzero()[:, 0]
    if not len(index):
        return None
    keys = (tag[index], classes.color[atom[index]], row[index])
    index = index[torch.from_numpy(np.lexsort([key.numpy() for key in keys]))].view(len(roots), -1)
    return index[:, index[0].argsort()]


def _narrowed(index: Tensor, name: str, shape: torch.Size) -> Place:
    """Return indices of a flattened tensor as those of one axis, where they fill it."""
    for axis, size in enumerate(shape):
        along = torch.stack(torch.unravel_index(index, tuple(shape)))[axis]
        rows = [row.unique() for row in along]
        apart = (
            len(torch.cat(rows).unique()) == sum(map(len, rows))
            and len({len(row) for row in rows}) == 1
        )
        if apart and index.shape[1] * size == len(rows[0]) * shape.numel():
            return Place(
                name, axis, torch.tensor([list(dict.fromkeys(row)) for row in along.tolist()])
            )
    return Place(name, None, index)


def _group(classes: _Classes, roots: list[int]) -> Group:
    tracer, places, watches = classes.tracer, [], []
    for (name, axis), (atom, tag) in tracer.places.items():
        index = _rows(classes, roots, atom, tag)
        if index is not None:
            shape = tracer.tensors[name].shape
            places.append(
                _narrowed(index, name, shape) if axis is None else Place(name, axis, index)
            )
    for read in tracer.reads:
        index = _rows(classes, roots, read.atom, read.tag)
        if index is not None:
            watches.append(Sighting(read.product, read.reads, read.axis, index))
    read_ones = tuple(watch for watch in watches if watch.reads)
    return Group(len(roots), tuple(places), read_ones or tuple(watches))


def _heads(classes: _Classes, movable: list[list[int]]) -> Blocks:
    """Return which channels to hold together so that whole heads can move, where attention splits
    them into heads.
    """
    tracer = classes.tracer
    met = set(
        tracer.rooted(
            torch.cat([torch.zeros(0, dtype=torch.int64), *tracer.between_activations])
        ).tolist()
    )
    families: dict[tuple[object, ...], list[Group]] = defaultdict(list)
    for roots in movable:
        if met.issuperset(roots):
            group = _group(classes, roots)
            families[
                group.size, *((p.name, p.axis, p.index.shape[1]) for p in group.places)
            ].append(group)
    blocks: dict[Key, tuple[Tensor, Tensor]] = {}
    for number, family in enumerate(groups for groups in families.values() if len(groups) > 1):
        for head, group in enumerate(family):
            for place in group.places:
                key, shape = (place.name, place.axis), tracer.tensors[place.name].shape
                size = shape.numel() if place.axis is None else shape[place.axis]
                block, tag = blocks.setdefault(
                    key, (torch.arange(size), torch.zeros(size, dtype=torch.int64))
                )
                block[place.index] = size * (1 + number) + head
                tag[place.index] = mix(number, torch.arange(place.index.numel())).view(
                    place.index.shape
                )
    return {
        key: (torch.unique(block, return_inverse=True)[1], tag)
        for key, (block, tag) in blocks.items()
    }


def _sorted_out(tracer: Tracer) -> tuple[_Classes, list[list[int]]]:
    classes = _Classes(tracer)
    return classes, classes.alike()


def _fixed(classes: _Classes, groups: Sequence[Group]) -> dict[str, str]:
    """Return why a parameter or an axis of it does not move, for all that do not move at all of
    their axes.
    """
    tracer, fixed = classes.tracer, {}
    moved = {(place.name, place.axis) for group in groups for place in group.places}
    for name, tensor in tracer.tensors.items():
        axes = [axis for key, axis in tracer.places if key == name]
        reasons = []
        for axis in axes:
            roots = tracer.rooted(tracer.places[name, axis][0].unique()).tolist()
            stay = [root for root in roots if root in classes.reason]
            if stay:
                part = "" if tensor.ndim < 2 or axis is None else f"axis {axis}: "
                some = "" if len(stay) == len(roots) else f"{len(stay)} of {len(roots)} stay, "
                reasons.append(f"{part}{some}{classes.reason[stay[0]]}")
        if not axes and tensor.numel() > 1 and not any(key == name for key, _ in moved):
            number = not tensor.is_floating_point()
            reasons.append(
                "its values are whole numbers"
                if number
                else "the forward pass on the example does not use it"
            )
        if reasons:
            fixed[name] = "; ".join(reasons)
    return fixed


def _made(classes: _Classes, groups: Sequence[Group]) -> tuple[int, int]:
    """Return how many channels the layers make that can move, and how many in all, less outputs."""
    tracer = classes.tracer
    moving = Counter[Key]()
    for place in (place for group in groups for place in group.places):
        moving[place.name, place.axis] += place.index.numel()
    moved = total = 0
    for key in dict.fromkeys(tracer.made):
        atom = tracer.places[key][0]
        reasons = {classes.reason.get(root) for root in tracer.rooted(atom).unique().tolist()}
        if reasons != {_OUTPUTS}:
            total += len(atom)
            moved += moving[key]
    return moved, total


def permutation_groups(module: nn.Module, example: Tensor) -> Groups:
    """Return which channels of the network may be permuted together, found by following one forward
    pass.

    `example` is one image or more, (n, c, h, w), float in [0, 1] or uint8; two are enough, whatever
    they show. Heads of attention move as a whole where there are two or more that play the same
    part; inside a head nothing moves then. Channels normalized in groups move within their group.
    The network is left as it is.

    Raises BadInput where the network does not run on the example, returns no tensor, or its
    outermost forward reads the value of an activation; a submodule that does so is left as it is
    and listed.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> groups = permutation_groups(net, torch.zeros(2, 1, 2, 2))
    >>> [(group.size, [(place.name, place.axis) for place in group.places]) for group in groups]
    [(3, [('1.weight', 0), ('1.bias', 0), ('3.weight', 1)])]
    >>> groups.fixed["3.bias"]
    "it makes the network's outputs"
    """
    if not isinstance(example, Tensor) or example.ndim != 4 or not len(example):
        shape = tuple(example.shape) if isinstance(example, Tensor) else type(example).__name__
        raise BadInput(
            f"an example {shape}", expected="images (n, c, h, w)", fix="pass one image or more"
        )
    net = copied(module).cpu()
    example = as_input(example[:2].detach(), torch.device("cpu"), channels_last=False).clone()
    example = example.to(computing_type(net))
    classes, movable = _sorted_out(_follow(net, example))
    blocks = _heads(classes, movable)
    if blocks:
        coarse, whole = _sorted_out(_follow(net, example, blocks))
        held = [
            coarse.tracer.places[key][0][block.bincount()[block] > 1]
            for key, (block, _) in blocks.items()
        ]
        if {root for roots in whole for root in roots}.issuperset(
            coarse.tracer.rooted(torch.cat(held)).tolist()
        ):
            classes, movable = coarse, whole
    groups = tuple(_group(classes, roots) for roots in movable)
    return Groups(groups, _fixed(classes, groups), example, _made(classes, groups))


def identity(groups: Groups) -> Permutations:
    """Return the permutations that leave every channel where it is."""
    return tuple(torch.arange(group.size) for group in groups)


def random_permutations(groups: Groups, generator: torch.Generator) -> Permutations:
    """Return one random permutation for each group."""
    return tuple(torch.randperm(group.size, generator=generator) for group in groups)


def inverse(permutations: Permutations) -> Permutations:
    """Return the permutations that take back the given ones.

    >>> inverse((torch.tensor([2, 0, 1]),))[0].tolist()
    [1, 2, 0]
    """
    return tuple(permutation.argsort() for permutation in permutations)


def check_permutations(groups: Groups, permutations: Sequence[Tensor]) -> None:
    """Raise BadInput unless there is one permutation of each group's channels."""
    sizes = [len(p) for p in permutations]
    if sizes != [group.size for group in groups]:
        raise BadInput(
            f"permutations of {sizes} channels",
            expected=f"one for each group, of {[group.size for group in groups]} channels",
            fix="take them from the same groups",
        )
    for number, (group, p) in enumerate(zip(groups, permutations, strict=True)):
        if p.is_floating_point() or not torch.equal(
            p.sort().values.cpu(), torch.arange(group.size)
        ):
            raise BadInput(
                f"{p.tolist()[:8]} for group {number}",
                expected=f"each of 0 to {group.size - 1} once",
                fix="pass torch.randperm of the group's size",
            )


def _reordered(tensor: Tensor, place: Place, permutation: Tensor) -> Tensor:
    """Return the tensor with one group's channels reordered at one place; differentiable."""
    index, moved = (
        i.reshape(-1).to(tensor.device) for i in (place.index, place.index[permutation])
    )
    if place.axis is None:
        flat = tensor.reshape(-1)
        return flat.index_copy(0, index, flat[moved]).view(tensor.shape)
    return tensor.index_copy(place.axis, index, tensor.index_select(place.axis, moved))


@torch.no_grad()
def reorder(module: nn.Module, group: Group, permutation: Tensor) -> None:
    """Reorder one group's channels at all of its places, in place."""
    tensors = {**dict(module.named_buffers()), **dict(module.named_parameters())}
    for place in group.places:
        tensors[place.name].data.copy_(_reordered(tensors[place.name].data, place, permutation))


def permuted_weights(weights: Params, groups: Groups, permutations: Sequence[Tensor]) -> Params:
    """Return weights by name as the permuted network has them, differentiable in those given.

    Names that the groups do not move, or that are not given (buffers), are left out of account.
    Raises BadInput where a permutation does not fit its group.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> groups = permutation_groups(net, torch.zeros(2, 1, 2, 2))
    >>> found = permuted_weights(dict(net.named_parameters()), groups, [torch.tensor([2, 0, 1])])
    >>> torch.equal(found["3.weight"], net[3].weight[:, [2, 0, 1]]), found["3.bias"] is net[3].bias
    (True, True)
    """
    check_permutations(groups, permutations)
    reordered = dict(weights)
    for group, permutation in zip(groups, permutations, strict=True):
        for place in group.places:
            if place.name in reordered:
                reordered[place.name] = _reordered(reordered[place.name], place, permutation)
    return reordered


def check_same_function(a: nn.Module, b: nn.Module, x: Tensor, tolerance: float = 1e-5) -> float:
    """Return the greatest absolute difference between two networks' outputs on x (n, c, h, w), in
    eval mode.

    Raises BadInput where it exceeds `tolerance` times the largest output. A difference that double
    precision takes away is rounding and is allowed; networks that compute in half precision are
    allowed four of its roundings.
    """
    one, other = (outputs(net, x) for net in (a, b))
    if one.shape != other.shape:
        raise BadInput(
            f"outputs {tuple(other.shape)}",
            expected=f"{tuple(one.shape)}",
            fix="pass two networks of the same outputs",
        )
    difference, scale = float((one - other).abs().max()), float(one.abs().max())
    coarsest = max(
        (torch.finfo(p.dtype).eps for p in a.parameters() if p.is_floating_point()), default=0.0
    )
    allowed = max(tolerance, 4 * coarsest if coarsest > 1e-6 else 0.0)
    if not difference <= allowed * scale and not _rounding(a, b, x, tolerance):
        raise BadInput(
            f"a network whose outputs differ by {difference:.3g} from the original's, which reach "
            f"{scale:.3g}",
            expected=f"the same function to {allowed:g}",
            fix="its permutation groups are not valid for it: report the architecture",
        )
    return difference


def _rounding(a: nn.Module, b: nn.Module, x: Tensor, tolerance: float) -> bool:
    """Return whether two networks agree far beyond the tolerance once they compute in double
    precision.
    """
    nets = [copied(net).double() for net in (a, b)]
    x = as_input(
        x[:32], next((p.device for p in a.parameters()), torch.device("cpu")), channels_last=False
    ).double()
    try:
        with torch.no_grad(), eval_mode(nets[0]), eval_mode(nets[1]):
            one, other = (logits_of(net(x.clone())) for net in nets)
    except RuntimeError:  # it insists on a type of its own
        return False
    return bool((one - other).abs().max() <= 1e-4 * tolerance * one.abs().max())


def permute(
    module: nn.Module,
    groups: Groups,
    permutations: Sequence[Tensor],
    *,
    check: Tensor | None = None,
) -> nn.Module:
    """Return a copy with permuted channels, buffers included, in eval mode: W_l <- P_l W_l
    P_{l-1}^T everywhere.

    Its function is compared with the original's on `check` (n, c, h, w), by default the example of
    the groups. Raises BadInput where a permutation does not fit its group, or the function changes.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> groups = permutation_groups(net, torch.zeros(2, 1, 2, 2))
    >>> permuted = permute(net, groups, [torch.tensor([2, 0, 1])])
    >>> torch.equal(permuted[3].weight, net[3].weight[:, [2, 0, 1]])
    True
    """
    check_permutations(groups, permutations)
    check_fits(module, groups)
    net = copied(module).eval()
    for group, permutation in zip(groups, permutations, strict=True):
        reorder(net, group, permutation)
    check_same_function(module, net, groups.example if check is None else check)
    return net


def check_fits(module: nn.Module, groups: Groups) -> None:
    """Raise BadInput where the groups name a parameter or an index that the network lacks."""
    tensors = {**dict(module.named_buffers()), **dict(module.named_parameters())}
    for place in (place for group in groups for place in group.places):
        tensor = tensors.get(place.name)
        if tensor is None:
            lack = f"a network without {place.name}"
        elif int(place.index.max()) >= _length(tensor, place.axis):
            lack = f"{place.name} of shape {tuple(tensor.shape)}"
        else:
            continue
        raise BadInput(
            lack,
            expected="the architecture that the groups were found on",
            fix="find them anew with permutation_groups",
        )


def _length(tensor: Tensor, axis: int | None) -> int:
    """Return how many indices a tensor has along an axis, or flattened; 0 where it has no axis."""
    if axis is None:
        return tensor.numel()
    return tensor.shape[axis] if axis < tensor.ndim else 0
