"""Follows channels through a network as it runs: which element of which activation stems from which
channel.

Every element of every activation carries a label: its channel (an `atom`, -1 where no channel can
move it) and a `tag` that says which of the channel's elements it is (pixel, token, part). Reshapes,
slices and concatenations act on the labels as they act on the values. Sums tie channels together;
what treats channels differently colors them differently. Channels of one color are what `groups`
may permute. Tags and colors are 64-bit hashes: a collision would be found by the comparison of
outputs that every permuted network has to pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from isthmus.models.channels.atoms import Atoms
from isthmus.models.channels.labels import Blocks, Key, Label, in_order, mix, spread

aten = torch.ops.aten


# The products that read weights. Their order is the same on every device, so they number the places
# to watch.
PRODUCTS = {aten.convolution, aten.mm, aten.addmm, aten.bmm, aten.baddbmm}


_PASS = {aten._to_copy, aten.clone, aten.detach, aten.alias, aten.lift_fresh}


_POINTWISE = {
    aten.hardswish,
    aten.hardswish_,
    aten.mish_,
    aten._prelu_kernel,
}  # those that torch forgets to tag as such


_TURNS = {aten.t, aten.transpose, aten.permute}


_MOVES = {
    *(
        _TURNS
        | {
            aten.expand,
            aten.slice,
            aten.select,
            aten.unsqueeze,
            aten.squeeze,
            aten.split,
            aten.unbind,
        }
    ),
    *{
        aten.split_with_sizes,
        aten.flip,
        aten.roll,
        aten.repeat,
        aten.index,
        aten.index_select,
        aten.unfold,
    },
    *{aten.pixel_shuffle, aten.pixel_unshuffle, aten.channel_shuffle, aten.diagonal},
}


_SPATIAL = {
    **dict.fromkeys((aten.avg_pool1d, aten.upsample_nearest1d, aten.upsample_linear1d), 1),
    **dict.fromkeys((aten.reflection_pad1d, aten.replication_pad1d), 1),
    **dict.fromkeys((aten.max_pool2d_with_indices, aten.avg_pool2d, aten._adaptive_avg_pool2d), 2),
    **dict.fromkeys(
        (aten.adaptive_max_pool2d, aten.upsample_nearest2d, aten.upsample_bilinear2d), 2
    ),
    **dict.fromkeys((aten.upsample_bicubic2d, aten.reflection_pad2d, aten.replication_pad2d), 2),
    **dict.fromkeys((aten.max_pool3d_with_indices, aten.avg_pool3d, aten._adaptive_avg_pool3d), 3),
    **dict.fromkeys(
        (aten.upsample_nearest3d, aten.upsample_trilinear3d, aten.adaptive_max_pool3d), 3
    ),
}


# Those that do not care in which order they meet what they reduce.
_REDUCES = {
    *{
        aten.mean,
        aten.sum,
        aten.amax,
        aten.amin,
        aten.var,
        aten.std,
        aten.var_mean,
        aten.logsumexp,
        aten.prod,
    },
    *{aten.linalg_vector_norm, aten.norm, aten.any, aten.all},
}


_SOFTMAX = {aten._softmax, aten._log_softmax, aten._safe_softmax}


_BATCHNORM = {
    aten.native_batch_norm,
    aten.cudnn_batch_norm,
    aten.miopen_batch_norm,
    aten._native_batch_norm_legit,
}


_READS = {aten._local_scalar_dense, aten.is_nonzero, aten.equal}


class ReadsValue(Exception):
    """A module asks for the value of an activation: where it goes depends on its input."""


@dataclass(frozen=True)
class Read:
    """A product reads (or makes) channels along one axis of an activation: where `matching` can
    watch them.
    """

    product: int
    reads: bool
    axis: int
    atom: Tensor
    tag: Tensor


class Tracer(Atoms, TorchDispatchMode):
    """Labels what the operations within its block make of the parameters and buffers of a module on
    the CPU.
    """

    def __init__(
        self, module: nn.Module, blocks: Blocks | None = None, leaves: frozenset[str] = frozenset()
    ) -> None:
        TorchDispatchMode.__init__(self)
        Atoms.__init__(
            self, {**dict(module.named_buffers()), **dict(module.named_parameters())}, blocks
        )
        self.leaves = leaves
        self.weights = {
            id(tensor): (name, tuple(range(tensor.ndim))) for name, tensor in self.tensors.items()
        }
        self.labels: dict[int, Label] = {}
        self.alive: list[Any] = []  # what is labeled by its id must not give that id away
        self.reads: list[Read] = []
        self.made: list[Key] = []  # the axes of weights that make channels
        self.between_activations: list[Tensor] = []
        self.stack: list[str] = []
        self.product = 0
        self.muted = 0

    # Labels of tensors.

    def known(self, tensor: Tensor) -> bool:
        """Return whether a tensor stems from the input or from a parameter or buffer."""
        return id(tensor) in self.labels or id(tensor) in self.weights

    def of(self, tensor: Tensor) -> Label:
        """Return a tensor's label: its own, its elements' as a parameter, or its values' as a
        constant.
        """
        if id(tensor) in self.labels:
            return self.labels[id(tensor)]
        if id(tensor) not in self.weights:
            return Label(
                torch.full(tensor.shape, -1), mix(1, tensor.double().view(torch.int64)), False
            )
        name, axes = self.weights[id(tensor)]
        own = self.tensors[name]
        if own.numel() < 2 or not own.is_floating_point():
            tag = mix(2, crc32(name.encode()), torch.arange(own.numel())).view(own.shape)
            return Label(torch.full(own.shape, -1), tag, False).moved(lambda t: t.permute(axes))
        return Label(*self.place(name, None), False).moved(
            lambda t: t.view(own.shape).permute(axes)
        )

    def put(self, tensor: Tensor, label: Label) -> None:
        """Label a tensor, and let what its elements are tell its channels apart."""
        assert label.atom.shape == tensor.shape
        self.labels[id(tensor)] = label
        self.weights.pop(id(tensor), None)
        self.alive.append(tensor)
        self.paint(label.atom, mix(self.node, label.tag))

    def fixed(self, tensor: Tensor) -> Label:
        """Return the label of a tensor whose elements are all told apart and cannot move."""
        return Label(
            torch.full(tensor.shape, -1),
            mix(3, self.node, torch.arange(tensor.numel())).view(tensor.shape),
        )

    def give_up(self, tensors: Sequence[Any], out: Any, reason: str) -> None:
        """Pin whatever takes part in an operation that no rule follows."""
        for tensor in tensors:
            if id(tensor) in self.weights:
                name = self.weights[id(tensor)][0]
                for axis in range(self.tensors[name].ndim):
                    self.pin(self.place(name, axis)[0], reason)
            elif id(tensor) in self.labels:
                self.pin(self.labels[id(tensor)].atom, reason)
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self.put(tensor, self.fixed(tensor))

    def _distinct(self, label: Label) -> Label:
        """Number what has the same label and so the same value, so that each element of a channel
        is itself.
        """
        atom, tag = label.atom.reshape(-1), label.tag.reshape(-1)
        key = mix(atom, tag)
        order = torch.argsort(key, stable=True)
        index = torch.arange(len(key))
        new = torch.cat([torch.ones(1, dtype=torch.bool), key[order].diff() != 0])[: len(key)]
        rank = torch.empty_like(index)
        rank[order] = index - torch.where(new, index, 0).cummax(0).values if len(key) else index
        tag = torch.where((atom >= 0) & (rank > 0), mix(tag, rank), tag)
        return Label(label.atom, tag.view(label.tag.shape), label.from_input)

    # Operations.

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        op = func.overloadpacket
        self.product += op in PRODUCTS
        if not self.muted:
            self.node += 1
            tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
            if any(self.known(t) for t in tensors):
                self._follow(func, op, args, kwargs, tensors, out)
        return out

    def _follow(
        self, func: Any, op: Any, args: Any, kwargs: Any, tensors: list[Tensor], out: Any
    ) -> None:
        if op in _READS:
            if any(self.of(t).from_input for t in tensors if self.known(t)):
                raise ReadsValue(self.stack[-1] if self.stack else "")
            for t in tensors:
                self.give_up([t], None, "its value is read as a number")
            return
        if not any(isinstance(t, Tensor) for t in tree_leaves(out)):
            return
        if func._schema.is_mutable and op not in _BATCHNORM:
            base = args[0]._base
            pointwise = torch.Tag.pointwise in func.tags or op in _POINTWISE
            if not pointwise or (base is not None and base.numel() > args[0].numel()):
                self.give_up(
                    [*tensors, base], [out, base], f"{op.__name__} writes into a part of it"
                )
                return
        rule = self._rule(op, func)
        if rule is None or not rule(self, op, args, kwargs, out):
            reason = f"{op.__name__} is not followed here" if rule else f"{op.__name__} has no rule"
            self.give_up(tensors, out, reason)

    def _rule(self, op: Any, func: Any) -> Rule | None:
        """Return how an operation's outputs are labeled; the rule returns False where it does not
        apply.
        """
        pointwise = torch.Tag.pointwise in func.tags or op in _POINTWISE
        return RULES.get(op, Tracer._pointwise if pointwise else None)

    def combined(self, labels: Sequence[Label], shape: Sequence[int]) -> Label:
        """Return the label of an elementwise function: its operands' channels are one."""
        labels = [self._across(label, labels, shape) for label in labels]
        wide = [label.moved(lambda t: t.expand(tuple(shape))) for label in labels]
        atom = wide[0].atom
        for label in wide[1:]:
            self.tie(atom, label.atom)
            atom = torch.where(atom >= 0, atom, label.atom)
        tag = wide[0].tag if len(wide) == 1 else mix(*(label.tag for label in wide))
        joined = Label(atom, tag, any(label.from_input for label in labels))
        for label in wide if len(wide) > 1 else []:
            self.paint(label.atom, mix(self.node, tag))
        repeats = any(
            label.atom.numel() < atom.numel() and bool((label.atom >= 0).any()) for label in labels
        )
        return self._distinct(joined) if repeats else joined

    def _across(self, label: Label, labels: Sequence[Label], shape: Sequence[int]) -> Label:
        """Return a parameter's label, fixed where its elements are positions and not channels of
        what it meets.

        So it is where one element meets several channels of one layer, or where a table meets what
        is fixed.
        """
        others = [other.atom for other in labels if other.from_input]
        if label.from_input or not others or not bool((label.atom >= 0).any()):
            return label
        own = (1,) * (len(shape) - label.atom.ndim) + tuple(label.atom.shape)
        crosses = sum(n > 1 for n in own) > 1 and not any(
            bool((atom >= 0).any()) for atom in others
        )
        for atom in others:
            atom = atom.expand(tuple(shape))
            first = atom
            for axis in (axis for axis, n in enumerate(own) if n == 1):
                first = first.narrow(axis, 0, 1)
            both = (atom >= 0) & (first >= 0)
            owners = self.owner[atom.clamp_min(0)] == self.owner[first.clamp_min(0)]
            crosses = crosses or bool(
                (both & owners & (self.rooted(atom) != self.rooted(first))).any()
            )
        if not crosses:
            return label
        self.pin(label.atom, "it stands for positions, not for channels")
        return Label(torch.full_like(label.atom, -1), mix(12, label.atom, label.tag), False)

    def _pointwise(self, op: Any, args: Any, kwargs: Any, out: Any) -> bool:
        if not isinstance(out, Tensor):
            return False
        labels = [self.of(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        self.put(out, self.combined(labels, out.shape))
        return True

    def _pass(self, op: Any, args: Any, kwargs: Any, out: Any) -> bool:
        if id(args[0]) in self.weights:
            self._name(out, *self.weights[id(args[0])])
        else:
            self.put(out, self.of(args[0]))
        return True

    def _name(self, out: Tensor, name: str, axes: tuple[int, ...]) -> None:
        """Remember that a tensor is a parameter with its axes in another order."""
        self.weights[id(out)] = (name, axes)
        self.alive.append(out)

    def _move(self, op: Any, args: Any, kwargs: Any, out: Any) -> bool:
        x, *rest = args
        if id(x) in self.weights and op in _TURNS and isinstance(out, Tensor):
            name, axes = self.weights[id(x)]
            self._name(out, name, tuple(axes[i] for i in _turned(op, x.ndim, rest)))
            return True
        indices = [t for t in tree_leaves((rest, kwargs)) if isinstance(t, Tensor)]
        if any(id(t) in self.labels for t in indices):
            return False
        label, op = self.of(x), aten.reshape if op in (aten.view, aten._unsafe_view) else op
        atoms, tags = (tree_leaves(op(t, *rest, **kwargs)) for t in (label.atom, label.tag))
        for tensor, atom, tag in zip(tree_leaves(out), atoms, tags, strict=True):
            moved = Label(atom, tag, label.from_input)
            self.put(
                tensor,
                self._distinct(moved) if atom.numel() > label.atom.numel() or indices else moved,
            )
        return True

    def _glu(self, op: Any, args: Any, kwargs: Any, out: Any) -> bool:
        """One half gates the other."""
        label, axis = self.of(args[0]), args[1] if len(args) > 1 else -1
        halves = zip(label.atom.chunk(2, axis), label.tag.chunk(2, axis), strict=True)
        self.put(
            out,
            self.combined([Label(atom, tag, label.from_input) for atom, tag in halves], out.shape),
        )
        return True

    def _join(self, op: Any, args: Any, kwargs: Any, out: Any) -> bool:
        parts, *rest = args
        labels = [self.of(t) for t in parts]
        atom = op([label.atom for label in labels], *rest, **kwargs)
        tag = op([mix(i, label.tag) for i, label in enumerate(labels)], *rest, **kwargs)
        self.put(out, Label(atom, tag, any(label.from_input for label in labels)))
        return True

    def _pad(self, op: Any, args: Any, kwargs: Any, out: Any) -> bool:
        """A margin of a constant: where one channel fills an axis, its margin is the channel's."""
        label, widths = self.of(args[0]), args[1]
        if min(widths, default=0) < 0:  # which crops
            atom, tag = op(label.atom, widths, -1), op(label.tag, widths, 0)
            self.put(out, Label(atom, tag, label.from_input))
            return True
        for i in range(0, len(widths), 2):
            label = self._with_margin(label, -1 - i // 2, widths[i], widths[i + 1])
        self.put(out, label)
        return True

    def _with_margin(self, label: Label, axis: int, low: int, high: int) -> Label:
        """Return the label with a margin along one axis, whose elements are told apart by place."""
        size = label.atom.shape[axis]
        if not low + high:
            return label
        if not size:
            widths = [0] * (2 * (-1 - axis)) + [low, high]
            return label.moved(lambda t: aten.constant_pad_nd(t, widths, -1))
        inside = torch.arange(-low, size + high).clamp(0, size - 1)
        places = torch.arange(-low, size + high)
        margin = ((places < 0) | (places >= size)).view([-1] + [1] * (-1 - axis))
        atom, tag = (t.index_select(axis, inside) for t in (label.atom, label.tag))
        if self.uniform(label.atom, axis):
            tag = torch.where(margin, mix(13, places.view(margin.shape), tag), tag)
        else:
            atom, tag = torch.where(margin, -1, atom), torch.where(margin, 0, tag)
        return Label(atom, tag, label.from_input)

    def _spatial(self, op: Any, args: Any, kwargs: Any, out: Any) -> bool:
        """Each channel by itself, whatever happens along the last axes."""
        label, axes = self.of(args[0]), _SPATIAL[op]
        atom, tag = label.atom.flatten(-axes), label.tag.flatten(-axes)
        if not self.uniform(atom, -1):
            return False
        for tensor in tree_leaves(out):
            size = tensor.shape[-axes:]
            position = torch.arange(prod(size))
            atoms = atom[..., :1].expand(*atom.shape[:-1], len(position))
            tags = mix(in_order(tag)[..., None], position)
            self.put(
                tensor, Label(atoms.unflatten(-1, size), tags.unflatten(-1, size), label.from_input)
            )
        return True

    def reduced(self, label: Label, axes: Sequence[int]) -> Label:
        """Return the label of a symmetric function along axes, which stay as axes of size one."""
        axes = sorted(axis % label.atom.ndim for axis in axes)
        others = [axis for axis in range(label.atom.ndim) if axis not in axes]
        shape = [1 if axis in axes else n for axis, n in enumerate(label.atom.shape)]
        atom, tag = (
            t.permute(*others, *axes).flatten(len(others)) for t in (label.atom, label.tag)
        )
        root = self.rooted(atom)
        alone = (root == root[..., :1]).all(-1)  # one channel, or none
        cell = torch.arange(alone.numel()).view(alone.shape)
        self.paint(torch.where(alone[..., None], -1, atom), mix(4, self.node, cell[..., None], tag))
        tag_after = torch.where(alone, mix(5, mix(tag).sum(-1)), mix(6, self.node, cell))
        return Label(torch.where(alone, atom[..., 0], -1), tag_after, label.from_input).moved(
            lambda t: t.reshape(shape)
        )

    def _reduction(self, op: Any, args: Any, kwargs: Any, out: Any) -> bool:
        x = args[0]
        at = 2 if op in (aten.linalg_vector_norm, aten.norm) else 1
        given = args[at] if len(args) > at else kwargs.get("dim")
        axes = [given] if isinstance(given, int) and not isinstance(given, bool) else given
        label = self.reduced(self.of(x), axes if axes else range(x.ndim))
        for tensor in tree_leaves(out):
            self.put(
                tensor,
                Label(
                    label.atom.reshape(tensor.shape),
                    label.tag.reshape(tensor.shape),
                    label.from_input,
                ),
            )
        return True

    def _softmax(self, op: Any, args: Any, kwargs: Any, out: Any) -> bool:
        label = self.of(args[0])
        self.put(out, self.combined([label, self.reduced(label, [args[1]])], out.shape))
        return True

    def _affine(
        self, label: Label, tensors: Sequence[Tensor | None], shape: Sequence[int]
    ) -> Label:
        own = [
            self.of(t).moved(lambda t: t.reshape(tuple(shape)))
            for t in tensors
            if t is not None and t.numel()
        ]
        return self.combined([label, *own], label.atom.shape)

    def _batchnorm(self, op: Any, args: Any, kwargs: Any, out: Any) -> bool:
        x, weight, bias, mean, variance, training, *_ = args
        label = self.of(x)
        if training:
            axes = [axis for axis in range(x.ndim) if axis != 1]
            label, mean, variance = (
                self.combined([label, self.reduced(label, axes)], x.shape),
                None,
                None,
            )
        shape = [-1 if axis == 1 else 1 for axis in range(x.ndim)]
        self.put(out[0], self._affine(label, [weight, bias, mean, variance], shape))
        return True

    def _layernorm(self, op: Any, args: Any, kwargs: Any, out: Any) -> bool:
        x, shape, weight, bias = args[:4]
        label = self.of(x)
        label = self.combined([label, self.reduced(label, range(-len(shape), 0))], x.shape)
        self.put(out[0], self._affine(label, [weight, bias], shape))
        return True

    def _groupnorm(self, op: Any, args: Any, kwargs: Any, out: Any) -> bool:
        x, weight, bias, n, channels, _, groups = args[:7]
        label = self.of(x).moved(lambda t: t.reshape(n, groups, -1))
        label = self.combined([label, self.reduced(label, [-1])], label.atom.shape).moved(
            lambda t: t.reshape(x.shape)
        )
        self.put(
            out[0],
            self._affine(label, [weight, bias], [channels if i == 1 else 1 for i in range(x.ndim)]),
        )
        return True

    # Products: here channels are summed over, and new ones are made.

    def _read(self, label: Label, axis: int, weight: Key | Tensor, reason: str) -> None:
        """Sum over channels along one axis: they are those of the weight's axis, wherever they
        stand.
        """
        atom, tag = label.atom.movedim(axis, 0).flatten(1), label.tag.movedim(axis, 0).flatten(1)
        own, part = (
            self.place(*weight) if isinstance(weight, tuple) else (weight, torch.zeros_like(weight))
        )
        broken = (atom < 0).any(1)
        self.pin(atom[broken], reason)
        self.pin(own[broken], reason)
        key = in_order(tag)
        self.tie(atom[~broken], own[~broken, None])
        self.paint(own, mix(7, self.node, key, part))
        self.reads.append(Read(self.product, True, axis, own, key))

    def _made(self, name: str, axis: int, at: int, out: Tensor, position: Tensor) -> Label:
        """Return the label of new channels along one axis of the output, told apart by position
        elsewhere.
        """
        atom, tag = self.place(name, axis)
        self.made.append((name, 0 if self.tensors[name].ndim == 1 else axis))
        self.reads.append(Read(self.product, False, at, atom, tag))
        return Label(
            spread(atom, at, out.shape), mix(self.node, position, spread(tag, at, out.shape))
        )

    def _convolution(self, op: Any, args: Any, kwargs: Any, out: Any) -> bool:
        x, weight, bias, _, _, _, transposed, _, groups = args
        if id(weight) not in self.weights or self.weights[id(weight)][1] != tuple(
            range(weight.ndim)
        ):
            return False
        name, label = self.weights[id(weight)][0], self.of(x)
        if not self.uniform(label.atom, 0, *range(2, x.ndim)):
            self.pin(label.atom, "a convolution slides along its channels")
            label = self.fixed(x)
        ins, outs = (0, 1) if transposed else (1, 0)
        fixed = "it reads the network's input, or what is fixed"
        if groups == 1:
            self._read(label, 1, (name, ins), fixed)
        elif groups == x.shape[1] and not transposed:
            self._depthwise(name, label, weight.shape[0] // groups, fixed)
        else:
            self.pin(label.atom, "a grouped convolution reads it")
            if transposed:
                self.pin(self.place(name, 0)[0], "it is a grouped convolution")
                self.pin(self.place(name, 1)[0], "it is a grouped convolution")
            else:
                self.pin(self.place(name, 1)[0], "it is a grouped convolution")
                group = torch.arange(weight.shape[0]) // (weight.shape[0] // groups)
                self.paint(self.place(name, 0)[0], mix(8, self.node, group))
        if transposed and groups > 1:
            self.put(out, self.fixed(out))
            return True
        position = torch.arange(out[:, 0].numel()).view(out[:, :1].shape)
        made = self._made(name, outs, 1, out, position)
        shape = [-1 if axis == 1 else 1 for axis in range(out.ndim)]
        self.put(out, self._affine(made, [bias], shape))
        return True

    def _depthwise(self, name: str, label: Label, multiple: int, reason: str) -> None:
        """Each channel has filters of its own, `multiple` of them, which move with it."""
        size = self.tensors[name].shape[0]
        self.blocks.setdefault(
            (name, 0), (torch.arange(size) // multiple, torch.arange(size) % multiple)
        )
        atom, _ = self.place(name, 0)
        if len(atom.unique()) * multiple == size:
            self._read(label, 1, atom[::multiple], reason)
        else:  # made before by another use, channel by channel
            self.pin(label.atom, "a depthwise convolution shares its weight with another layer")
            self.pin(atom, "it shares its weight with another layer")

    def _product(self, op: Any, args: Any, kwargs: Any, out: Any) -> bool:
        *bias, x, weight = args[-2:] if op in (aten.mm, aten.bmm) else args[:3]
        if id(weight) in self.weights and weight.ndim == 2:
            label = self._linear(x, weight, out)
        elif id(x) in self.weights:
            return False
        else:
            label = self._between(x, weight, out)
        if bias and kwargs.get("beta", 1) != 0:
            label = self._affine(label, bias, [1] * (out.ndim - bias[0].ndim) + list(bias[0].shape))
        self.put(out, label)
        return True

    def _linear(self, x: Tensor, weight: Tensor, out: Tensor) -> Label:
        (name, (ins, outs)), label = self.weights[id(weight)], self.of(x)
        row = torch.arange(len(x))[:, None]
        channels = bool((label.atom >= 0).any())
        if (
            channels and self.uniform(label.atom, 1) and not self.uniform(label.atom, 0)
        ):  # it mixes tokens, not channels
            reason = "it acts along positions of the channels, not along channels"
            for axis in (ins, outs):
                self.pin(self.place(name, axis)[0], reason)
            tag = mix(self.node, in_order(label.tag)[:, None], torch.arange(out.shape[1]))
            return Label(label.atom[:, :1].expand(out.shape), tag)
        self._read(label, 1, (name, ins), "it reads the network's input, or what is fixed")
        return self._made(name, outs, 1, out, row)

    def _between(self, x: Tensor, y: Tensor, out: Tensor) -> Label:
        """Two activations, (b, t, j) and (b, j, s): attention. Channels are either summed over, or
        carried through.
        """
        a, b = (
            label.moved(lambda t: t.view(-1, *t.shape[-2:])) for label in (self.of(x), self.of(y))
        )
        batch = torch.arange(len(a.atom))
        self.between_activations += [t.unique() for t in (a.atom, b.atom)]
        if self.uniform(a.atom, 2) and self.uniform(b.atom, 1):
            rows, columns = a.atom[:, :, :1], b.atom[:, :1]
            if not (bool((rows < 0).all()) or bool((columns < 0).all())) and not (
                self.uniform(rows, 1) and self.uniform(columns, 2)
            ):
                return self._lost(a, b, out)
            left = Label(rows, in_order(a.tag)[:, :, None])
            right = Label(columns, in_order(b.tag.mT)[:, None])
            return self.combined([left, right], (len(a.atom), *out.shape[-2:])).moved(
                lambda t: t.reshape(out.shape)
            )
        channels = a.atom[:, 0], b.atom[:, :, 0]
        if (
            self.uniform(a.atom, 1)
            and self.uniform(b.atom, 2)
            and all(bool((c >= 0).all()) for c in channels)
        ):
            self.tie(*channels)
            for atom, tag in zip(channels, (a.tag.mT, b.tag), strict=True):
                self.paint(atom, mix(9, self.node, batch[:, None], in_order(tag)))
            return self.fixed(out)
        return self._lost(a, b, out)

    def _lost(self, a: Label, b: Label, out: Tensor) -> Label:
        for label in (a, b):
            self.pin(label.atom, "a product of activations mixes it with positions")
        return self.fixed(out)

    def _embedding(self, op: Any, args: Any, kwargs: Any, out: Any) -> bool:
        weight, indices = args[:2]
        if id(weight) not in self.weights or self.weights[id(weight)][1] != (0, 1):
            return False
        name = self.weights[id(weight)][0]
        self.pin(self.place(name, 0)[0], "its rows are looked up by number")
        position = torch.arange(indices.numel()).view(*indices.shape, 1)
        self.put(out, self._made(name, 1, out.ndim - 1, out, position))
        return True

    def _weight_norm(self, op: Any, args: Any, kwargs: Any, out: Any) -> bool:
        """A weight of direction and size: its axes are the direction's, and the size goes with the
        first of them.
        """
        direction, size, axis = (*args, 0)[:3]
        if axis != 0 or id(direction) not in self.weights or id(size) not in self.weights:
            return False
        name, axes = self.weights[id(direction)]
        self.tie(self.place(name, 0)[0], self.place(self.weights[id(size)][0], 0)[0])
        self._name(out[0], name, axes)
        return True

    # Modules that are not looked into.

    def enter(self, name: str) -> None:
        """Note that a submodule begins."""
        self.stack.append(name)
        self.muted += name in self.leaves

    def leave(self, name: str, part: nn.Module, inputs: Any, out: Any) -> None:
        """Note that a submodule ends; one that is not looked into fixes all that it reads and
        makes.
        """
        self.stack.pop()
        if name in self.leaves:
            self.muted -= 1
            if not self.muted:
                self.node += 1
                tensors = [t for t in tree_leaves(inputs) if isinstance(t, Tensor)]
                self.give_up(
                    [*tensors, *part.parameters(), *part.buffers()],
                    out,
                    f"{name} chooses its way by the values it gets",
                )


def _turned(op: Any, ndim: int, rest: Sequence[Any]) -> list[int]:
    """Return which old axis each new one is."""
    order = list(range(ndim))
    if op is aten.permute:
        return [axis % ndim for axis in rest[0]]
    one, other = rest if op is aten.transpose else (0, -1)
    order[one], order[other] = order[other], order[one]
    return order


Rule = Callable[[Tracer, Any, Any, Any, Any], bool]
"""`(tracer, op, args, kwargs, out)`: labels outputs, or returns False where it does not apply."""

_RULES: list[tuple[set[Any] | dict[Any, int], Rule]] = [
    (_PASS, Tracer._pass),
    (_MOVES | {aten.view, aten._unsafe_view, aten.reshape}, Tracer._move),
    ({aten.cat, aten.stack}, Tracer._join),
    ({aten.constant_pad_nd}, Tracer._pad),
    ({aten.glu}, Tracer._glu),
    (_SPATIAL, Tracer._spatial),
    (_REDUCES, Tracer._reduction),
    (_SOFTMAX, Tracer._softmax),
    (_BATCHNORM, Tracer._batchnorm),
    ({aten.native_layer_norm}, Tracer._layernorm),
    ({aten.native_group_norm}, Tracer._groupnorm),
    ({aten.convolution}, Tracer._convolution),
    ({aten.mm, aten.addmm, aten.bmm, aten.baddbmm}, Tracer._product),
    ({aten.embedding}, Tracer._embedding),
    ({aten._weight_norm_interface}, Tracer._weight_norm),
    ({aten.zeros_like, aten.ones_like, aten.full_like, aten.empty_like}, lambda *_: True),
    ({aten.new_zeros, aten.new_ones, aten.new_full, aten.new_empty}, lambda *_: True),
]

RULES: dict[Any, Rule] = {op: rule for ops, rule in _RULES for op in ops}
"""How each operation is followed; those that torch tags as pointwise need no entry."""
