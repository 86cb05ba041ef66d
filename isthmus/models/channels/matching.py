"""Which channel of one network is which of the other: by weights, or by activations on data.

Source: Ainsworth et al., Git Re-Basin, ICLR 2023, Algorithm 1 (weights); Li et al., 2016, and Tatro
et al., NeurIPS 2020 (correlation of activations); Peng et al., TSC, ICML 2025 (the least correlated
copy of a network itself).

Where we depart: activations are taken where the next layers read them, summed over all readers of a
group, in one pass that keeps sums and no activations; TSC goes layer by layer. A step of weight
matching that does not bring the weights closer is taken back: where both axes of one weight belong
to one group, the assignment only approximates the gain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode

from isthmus.data.dataset import Source, as_data
from isthmus.models.channels.groups import (
    Group,
    Groups,
    Permutations,
    Place,
    check_fits,
    check_same_function,
    identity,
    permutation_groups,
    permute,
    plain_attention,
    random_permutations,
    reorder,
)
from isthmus.models.channels.trace import PRODUCTS
from isthmus.models.forward import as_input, device_of, eval_mode, forward_pass, pass_size
from isthmus.models.view import copied
from isthmus.types import BadInput

_SWEEPS = 100


_CHECKED = 256  # samples on which a permuted network has to agree with the original


def _assignment(gain: Tensor, *, least: bool = False) -> Tensor:
    """Return p that maximizes (or minimizes) sum_i gain[i, p[i]]."""
    return torch.as_tensor(
        linear_sum_assignment(gain.double().cpu().numpy(), maximize=not least)[1]
    )


def _check_alike(reference: nn.Module, module: nn.Module) -> None:
    shapes = [{n: tuple(p.shape) for n, p in net.named_parameters()} for net in (reference, module)]
    if shapes[0] != shapes[1]:
        names = sorted(
            n for n in {**shapes[0], **shapes[1]} if shapes[0].get(n) != shapes[1].get(n)
        )
        raise BadInput(
            f"networks that differ in {names[0]}: {shapes[0].get(names[0])} against "
            f"{shapes[1].get(names[0])}",
            expected="two networks of one architecture",
            fix="align networks built by the same code",
        )


def _rows(tensor: Tensor, place: Place) -> Tensor:
    """Return what belongs to each of a group's channels at one place, (size, values), in single
    precision or better.
    """
    flat = tensor.reshape(-1) if place.axis is None else tensor.movedim(place.axis, 0)
    flat = flat.to(torch.promote_types(tensor.dtype, torch.float32))
    return flat[place.index.to(tensor.device)].flatten(1)


def _gain(reference: nn.Module, module: nn.Module, group: Group) -> Tensor:
    """Return the inner products of the reference's channels (rows) with the module's, over a
    group's parameters.
    """
    own, theirs = dict(module.named_parameters()), dict(reference.named_parameters())
    gain = torch.zeros(group.size, group.size, dtype=torch.float64)
    for place in group.places:
        if place.name in own:
            there, here = (_rows(params[place.name].detach(), place) for params in (theirs, own))
            gain += (there.to(here.device) @ here.T).cpu()
    return gain


def _closeness(reference: nn.Module, module: nn.Module, names: set[str]) -> float:
    own, theirs = dict(module.named_parameters()), dict(reference.named_parameters())
    pairs = (
        (own[name].detach().double(), theirs[name].detach().double())
        for name in names
        if name in own
    )
    return sum(float((a * b.to(a.device)).sum()) for a, b in pairs)


def match_weights(
    reference: nn.Module, module: nn.Module, groups: Groups, seed: int = 0
) -> Permutations:
    """Return the permutations of the module's channels that bring its weights near the reference's.

    Coordinate descent (Git Re-Basin, Algorithm 1): one linear assignment per group, in an order
    drawn from `seed`, until none brings the inner product of all weights up. Buffers are not
    compared. A local optimum: seeds may differ.

    Raises BadInput where the two networks are not of one architecture, or the groups are another's.
    """
    _check_alike(reference, module)
    check_fits(module, groups)
    net, permutations = copied(module), list(identity(groups))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(_SWEEPS):
        better = False
        for number in torch.randperm(len(groups), generator=generator).tolist():
            group = groups.groups[number]
            gain = _gain(reference, net, group)
            p = _assignment(gain)
            least = 1e-9 * float(gain.abs().sum()) / max(1, group.size)
            if float((gain.gather(1, p[:, None])[:, 0] - gain.diagonal()).sum()) <= least:
                continue
            names = {place.name for place in group.places}
            before = _closeness(reference, net, names)
            reorder(net, group, p)
            if _closeness(reference, net, names) <= before:
                reorder(net, group, p.argsort())
                continue
            permutations[number], better = permutations[number][p], True
        if not better:
            break
    return tuple(permutations)


class _Watcher(TorchDispatchMode):
    """Keeps what the numbered products read and make within its block."""

    def __init__(self, wanted: set[tuple[int, bool]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.wanted, self.product = wanted, 0
        self.seen: dict[tuple[int, bool], Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in PRODUCTS:
            self.product += 1
            x = args[
                1 if func.overloadpacket in (torch.ops.aten.addmm, torch.ops.aten.baddbmm) else 0
            ]
            for reads, tensor in ((True, x), (False, out)):
                if (self.product, reads) in self.wanted:
                    self.seen[self.product, reads] = tensor
        return out


@dataclass
class _Correlation:
    """Sums over samples from which the correlations of two networks' channels follow; blocks count
    as one vector.
    """

    count: int = 0
    shift: list[Tensor] = field(default_factory=list)
    sums: list[Tensor] = field(default_factory=list)
    squares: list[Tensor] = field(default_factory=list)
    cross: Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, one: Tensor, other: Tensor) -> None:
        """Add samples of both networks, each (samples, size, block)."""
        pair = [one.float(), other.float()]
        if not self.count:
            self.shift = [
                x.mean(0) for x in pair
            ]  # near the mean, so that little is lost in the differences below
            self.sums = [torch.zeros_like(s, dtype=torch.float64) for s in self.shift]
            self.squares = [s.new_zeros(len(s)) for s in self.sums]
            self.cross = self.sums[0].new_zeros(one.shape[1], one.shape[1])
        pair = [x - s for x, s in zip(pair, self.shift, strict=True)]
        self.count += len(one)
        self.sums = [s + x.sum(0) for s, x in zip(self.sums, pair, strict=True)]
        self.squares = [s + x.square().sum((0, 2)) for s, x in zip(self.squares, pair, strict=True)]
        self.cross = self.cross + torch.einsum("nib,njb->ij", *pair).double()

    def value(self) -> Tensor:
        """Return the correlations, the first network's channels as rows; 0 where a channel is
        constant.
        """
        cross = self.cross - torch.einsum("ib,jb->ij", *self.sums) / self.count
        variances = [
            (q - s.square().sum(1) / self.count)
            for q, s in zip(self.squares, self.sums, strict=True)
        ]
        live = [
            v > 1e-12 * q.clamp_min(1e-30) for v, q in zip(variances, self.squares, strict=True)
        ]
        scale = (variances[0][:, None] * variances[1]).clamp_min(1e-300).sqrt()
        return torch.where(live[0][:, None] & live[1], cross / scale, 0.0)


@contextmanager
def _watching(*nets: nn.Module) -> Iterator[None]:
    with torch.no_grad(), plain_attention(), eval_mode(nets[0]), eval_mode(nets[1]):
        yield


def correlations(
    reference: nn.Module, module: nn.Module, data: Source, groups: Groups
) -> list[Tensor]:
    """Return for each group how its channels correlate, (size, size): the reference's in rows, the
    module's in columns.

    Taken over samples and positions, where the next layers read the channels, and summed over these
    layers; both networks in eval mode and full precision. Raises BadInput where a network's course
    is not the one that the groups were found on.
    """
    x, pending = as_data(data).x, [[_Correlation() for _ in group.watches] for group in groups]
    wanted = {(watch.product, watch.reads) for group in groups for watch in group.watches}
    with _watching(reference, module):
        for part in x.split(pass_size(x, device_of(module), gradients=True)):
            seen = []
            for net in (reference, module):
                images = as_input(part, device_of(net), channels_last=False)
                with _Watcher(wanted) as watcher:
                    forward_pass(net, images)
                seen.append(watcher.seen)
            for group, sums in zip(groups, pending, strict=True):
                for watch, correlation in zip(group.watches, sums, strict=True):
                    one, other = (
                        _samples(products, watch.product, watch.reads, watch.axis, watch.index)
                        for products in seen
                    )
                    correlation.add(one, other.to(one.device))
    empty = [torch.zeros(group.size, group.size, dtype=torch.float64) for group in groups]
    return [
        sum((correlation.value().cpu() for correlation in sums), zero)
        for sums, zero in zip(pending, empty, strict=True)
    ]


def _samples(
    seen: dict[tuple[int, bool], Tensor], product: int, reads: bool, axis: int, index: Tensor
) -> Tensor:
    """Return a group's channels as (samples, size, block)."""
    tensor = seen.get((product, reads))
    if tensor is None or tensor.ndim <= axis or tensor.shape[axis] <= int(index.max()):
        raise BadInput(
            "a network that takes another course on the data than on the example",
            expected="the same layers in the same order",
            fix="match by weights, or find the groups on images like the data",
        )
    flat = tensor.movedim(axis, -1).reshape(-1, tensor.shape[axis])
    return flat[:, index.to(flat.device)]


def match_activations(
    reference: nn.Module, module: nn.Module, data: Source, groups: Groups, *, least: bool = False
) -> Permutations:
    """Return the permutations that make the module's channels correlate most with the reference's
    on the data.

    With `least`, those that make them correlate least: the far copy of TSC, where both networks are
    the same one. A group that no layer of its own reads or makes stays as it is. Raises BadInput
    where the two networks are not of one architecture, the groups are another's, or `data` is no
    data.
    """
    _check_alike(reference, module)
    check_fits(module, groups)
    measured = correlations(reference, module, data, groups)
    pairs = zip(groups, measured, strict=True)
    return tuple(
        _assignment(c, least=least) if group.watches else torch.arange(group.size)
        for group, c in pairs
    )


@dataclass(frozen=True, eq=False)
class Alignment:
    """What `align` and `permuted_copy` return: a network with permuted channels, and its making.

    `model` is the network, an ordinary module in eval mode. `permutations` are those of `groups`,
    one each. `difference` is the greatest absolute difference of its outputs from the original's on
    the data it was checked on.
    """

    model: nn.Module = field(repr=False)
    permutations: Permutations = field(repr=False)
    groups: Groups = field(repr=False)
    by: str
    difference: float

    @property
    def moved(self) -> float:
        """The share of channels that are not where they were, of those that can move; 0 where none
        can.
        """
        moved = sum(int((p != torch.arange(len(p))).sum()) for p in self.permutations)
        return moved / max(1, self.groups.channels)

    @property
    def fixed(self) -> dict[str, str]:
        """Why parameters, or axes of them, stayed as they were, by name."""
        return self.groups.fixed


def _aligned(
    module: nn.Module, groups: Groups, permutations: Sequence[Tensor], x: Tensor, by: str
) -> Alignment:
    net = permute(module, groups, permutations)
    return Alignment(
        net, tuple(permutations), groups, by, check_same_function(module, net, x[:_CHECKED])
    )


def align(
    reference: nn.Module,
    module: nn.Module,
    data: Source,
    *,
    by: Literal["activations", "weights"] = "activations",
    seed: int = 0,
) -> Alignment:
    """Return an Alignment, whose `model` is the module with its channels in the order of the
    reference's, computing what it computed before.

    `seed` draws the order of weight matching. Points between the two networks still need
    `recalibrate` where they have BatchNorm. Raises BadInput where the two are not of one
    architecture, the network cannot be followed, nothing in it can be permuted, or the permuted
    network computes something else.
    """
    if by not in ("activations", "weights"):
        raise BadInput(
            f"alignment by {by!r}", expected="activations or weights", fix="pass by='activations'"
        )
    _check_alike(reference, module)
    data = as_data(data)
    groups = _some_groups(module, data.x)
    if by == "weights":
        return _aligned(module, groups, match_weights(reference, module, groups, seed), data.x, by)
    return _aligned(module, groups, match_activations(reference, module, data, groups), data.x, by)


def permuted_copy(
    module: nn.Module,
    data: Source,
    *,
    how: Literal["least correlated", "random"] = "least correlated",
    seed: int = 0,
) -> Alignment:
    """Return an Alignment, whose `model` is a copy of the network that computes the same, far from
    it in weight space.

    "least correlated" assigns channels that behave differently on the data (TSC), "random" draws
    from `seed`. Channels that a frozen parameter takes part in stay where they are: a curve to the
    copy has no bend for them, so that between two orders they would fit neither. Raises BadInput
    where the network cannot be followed, nothing in it can be permuted, or the copy computes
    something else.
    """
    if how not in ("least correlated", "random"):
        raise BadInput(
            f"a copy {how!r}", expected="least correlated or random", fix="pass how='random'"
        )
    data = as_data(data)
    groups = _some_groups(module, data.x, frozen_too=False)
    if how == "random":
        permutations = random_permutations(groups, torch.Generator().manual_seed(seed))
    else:
        permutations = match_activations(module, module, data, groups, least=True)
    return _aligned(module, groups, permutations, data.x, how)


def _some_groups(module: nn.Module, x: Tensor, *, frozen_too: bool = True) -> Groups:
    groups = permutation_groups(module, x)
    if not frozen_too:
        groups = _without_frozen(module, groups)
    if not len(groups):
        why = next(
            (f"{name}: {reason}" for name, reason in groups.fixed.items()), "it has no weights"
        )
        held = any(parametrize.is_parametrized(part) for part in module.modules())
        raise BadInput(
            f"a network whose channels cannot be permuted ({why})",
            expected="a hidden layer",
            fix="pass isthmus.compression.baked(model), whose weights are ordinary ones"
            if held
            else "leave OTHER out of isthmus align, or pass another second endpoint",
        )
    return groups


def _without_frozen(module: nn.Module, groups: Groups) -> Groups:
    """Return the groups without frozen parameters; all of them where nothing trains."""
    parameters = dict(module.named_parameters())
    frozen = {name for name, p in parameters.items() if not p.requires_grad}
    if len(frozen) == len(parameters):
        return groups
    moving = tuple(
        group for group in groups if frozen.isdisjoint(place.name for place in group.places)
    )
    reasons = {
        place.name: "it is frozen, or joined to a parameter that is"
        for group in set(groups) - set(moving)
        for place in group.places
    }
    return replace(groups, groups=moving, fixed={**reasons, **groups.fixed})
