"""What each operation of a forward pass does to a bound; `bounded` runs a network on one.

BatchNorm is bounded in eval mode. A rule takes what the operation takes, a bound in place of a
tensor; a new one is a function with the operation's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isthmus.models.bounds.bound import Bound, NoRule, Rule, rule, sharing
from isthmus.models.fixed_point import full_precision
from isthmus.models.forward import eval_mode, logits_in
from isthmus.types import BadInput

B = TypeVar("B", bound=Bound)


def _constant(value: Any, operation: str) -> Any:
    """Return the value. Raises NoRule where it is itself a bound."""
    if isinstance(value, Bound):
        raise NoRule(f"{operation} of two bounds")
    return value


def _by_row(bias: Tensor | None, axes: int) -> Tensor | None:
    return None if bias is None else bias.view(-1, *[1] * axes)


@rule("linear")
def _linear(input: Bound, weight: Tensor, bias: Tensor | None = None) -> Bound:
    return _bound(input, "linear").affine(F.linear, _constant(weight, "linear"), bias)


@rule("matmul")
def _matmul(input: Bound, other: Tensor) -> Bound:
    return _linear(_bound(input, "matmul"), _constant(other, "matmul").mT)


@rule("addmm")
def _addmm(input: Tensor, mat1: Bound, mat2: Tensor) -> Bound:
    return _matmul(mat1, mat2).plus(_constant(input, "addmm"))


def _bound(value: Any, operation: str) -> Bound:
    """Return the value. Raises NoRule where the bound stands in another place of the operation."""
    if not isinstance(value, Bound):
        raise NoRule(f"{operation} with a bound in place of weights")
    return value


def _convolution(convolve: Callable[..., Tensor], axes: int) -> Rule:
    def convolved(
        input: Bound,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Bound:
        def product(values: Tensor, kernel: Tensor) -> Tensor:
            return convolve(values, kernel, None, stride, padding, dilation, groups)

        return input.affine(product, _constant(weight, "conv"), _by_row(bias, axes))

    return convolved


for _axes, _conv in enumerate((F.conv1d, F.conv2d, F.conv3d), start=1):
    rule(f"conv{_axes}d")(_convolution(_conv, _axes))


@rule("batch_norm")
def _batch_norm(
    input: Bound,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Bound:
    if training or running_mean is None or running_var is None:
        raise NoRule("batch_norm with the statistics of the batch")
    scale = (input.cast(running_var) + eps).rsqrt()
    if weight is not None:
        scale = scale * input.cast(weight)
    shift = -input.cast(running_mean) * scale
    if bias is not None:
        shift = shift + input.cast(bias)
    shape = (-1, *[1] * (input.ndim - 2))
    return input.times(scale.view(shape)).plus(shift.view(shape))


_SLOPES = {
    **dict.fromkeys(("relu", "relu6", "hardtanh", "tanh", "softplus", "elu"), 1.0),
    **dict.fromkeys(("clamp", "clamp_min", "clamp_max", "clip", "logsigmoid"), 1.0),
    **dict.fromkeys(("sigmoid", "hardsigmoid"), 0.25),
    "selu": 1.7580993408473766,
    "softsign": 1.0,
    "arctan": 1.0,
    "atan": 1.0,
}


def _activation(name: str) -> Rule:
    def active(input: Bound, *args: Any, **kwargs: Any) -> Bound:
        if name == "elu" and (args or kwargs.get("alpha", 1.0) != 1.0):
            raise NoRule("elu with an alpha of its own")
        kwargs.pop("inplace", None)
        function = getattr(F, name) if hasattr(F, name) else getattr(torch, name)
        return input.monotone(lambda v: function(v, *args, **kwargs), _SLOPES[name])

    return active


for _name in _SLOPES:
    rule(_name)(_activation(_name))


@rule("leaky_relu")
def _leaky_relu(input: Bound, negative_slope: float = 0.01, inplace: bool = False) -> Bound:
    if negative_slope < 0:
        raise NoRule("leaky_relu with a negative slope")
    return input.monotone(lambda v: F.leaky_relu(v, negative_slope), max(1.0, negative_slope))


@rule("prelu")
def _prelu(input: Bound, weight: Tensor) -> Bound:
    if not bool((_constant(weight, "prelu") >= 0).all()):
        raise NoRule("prelu with a negative slope")
    slope = max(1.0, float(weight.detach().amax()))
    return input.monotone(lambda v: F.prelu(v, input.cast(weight)), slope)


def _terms(kernel: Any, axes: int) -> int:
    sides = (kernel,) * axes if isinstance(kernel, int) else tuple(kernel)
    return int(torch.Size(sides).numel())


def _pool(name: str, axes: int) -> Rule:
    def pool(input: Bound, kernel_size: Any, *args: Any, **kwargs: Any) -> Bound:
        if kwargs.pop("return_indices", False):
            raise NoRule(f"{name} with indices")
        function = getattr(F, name)
        terms = _terms(kernel_size, axes)
        return input.pooled(lambda v: function(v, kernel_size, *args, **kwargs), terms)

    return pool


def _adaptive(name: str) -> Rule:
    def pool(input: Bound, output_size: Any, return_indices: bool = False) -> Bound:
        if return_indices:
            raise NoRule(f"{name} with indices")
        terms = input.like[0].numel()
        return input.pooled(lambda v: getattr(F, name)(v, output_size), terms)

    return pool


for _axes in (1, 2, 3):
    for _kind in ("max", "avg"):
        rule(f"{_kind}_pool{_axes}d")(_pool(f"{_kind}_pool{_axes}d", _axes))
        rule(f"adaptive_{_kind}_pool{_axes}d")(_adaptive(f"adaptive_{_kind}_pool{_axes}d"))


@rule("mean")
def _mean(input: Bound, dim: Any = None, keepdim: bool = False) -> Bound:
    axes = (dim,) if isinstance(dim, int) else dim
    if axes is None or 0 in axes or -input.ndim in axes:
        raise NoRule("mean over the samples")
    return input.pooled(lambda v: v.mean(axes, keepdim), input.like[0].numel())


def _layout(name: str) -> Rule:
    method = getattr(Tensor, name)

    def laid_out(input: Bound, *args: Any, **kwargs: Any) -> Bound:
        plain = [arg.like if isinstance(arg, Bound) else arg for arg in args]
        return sharing(input, input.arranged(lambda v: method(v, *plain, **kwargs)))

    return laid_out


for _name in (
    *("flatten", "reshape", "view", "permute", "transpose", "squeeze", "unsqueeze", "contiguous"),
    *("expand", "movedim", "swapaxes", "t", "narrow", "select", "index_select", "flip", "roll"),
    *("unflatten", "view_as", "reshape_as", "repeat"),
):
    rule(_name)(_layout(_name))


@rule("clone")
def _clone(input: Bound, **kwargs: Any) -> Bound:
    return input.arranged(Tensor.clone)


@rule("float", "double", "to", "detach", "requires_grad")
def _kept(input: Bound, *args: Any, **kwargs: Any) -> Bound:
    """A bound stays in its own precision; a network that rounds to fewer bits has no bound."""
    for target in (*args, *kwargs.values()):
        if isinstance(target, torch.dtype) and target not in (torch.float32, torch.float64):
            raise NoRule(f"a cast to {target}")
    return input


@rule("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout")
def _dropout(input: Bound, p: float = 0.5, training: bool = True, inplace: bool = False) -> Bound:
    if training and p > 0:
        raise NoRule("dropout in train mode")
    return input


@rule("pad")
def _pad(input: Bound, pad: Any, mode: str = "constant", value: float | None = None) -> Bound:
    if mode == "constant":
        fill = value or 0.0
        return input.padded(lambda v: F.pad(v, pad, mode, fill), fill)
    return input.arranged(lambda v: F.pad(v, pad, mode))


@rule("cat", "concat", "concatenate")
def _cat(tensors: Sequence[Any], dim: int = 0) -> Bound:
    first = next(part for part in tensors if isinstance(part, Bound))
    return first.joined(lambda parts: torch.cat(parts, dim), tensors)


@rule("stack")
def _stack(tensors: Sequence[Any], dim: int = 0) -> Bound:
    first = next(part for part in tensors if isinstance(part, Bound))
    return first.joined(lambda parts: torch.stack(parts, dim), tensors)


@rule("add")
def _add(input: Any, other: Any, *, alpha: float = 1) -> Bound:
    if alpha != 1:
        other = other * alpha
    if isinstance(input, Bound):
        return input.plus(other)
    return _bound(other, "add").plus(input)


@rule("sub")
def _sub(input: Any, other: Any, *, alpha: float = 1) -> Bound:
    return _add(input, -other * alpha)


@rule("rsub")
def _rsub(input: Any, other: Any) -> Bound:
    return _add(-input, other)


@rule("mul")
def _mul(input: Any, other: Any) -> Bound:
    if isinstance(input, Bound):
        return input.times(_constant(other, "mul"))
    return _bound(other, "mul").times(input)


@rule("div")
def _div(input: Bound, other: Any) -> Bound:
    divisor = _constant(other, "div")
    return _bound(input, "div").times(1 / input.cast(torch.as_tensor(divisor)))


@rule("neg", "negative")
def _neg(input: Bound) -> Bound:
    return input.times(-1.0)


def bounded(model: nn.Module, value: B) -> B:
    """Return the bound of the model's outputs over all inputs within a bound, in eval mode.

    Raises BadInput where an operation has no rule, with its name and its place in the network;
    NoBound where a fixed point of bounds is not reached.
    """
    with eval_mode(model), full_precision(value.device), _stacked(model) as places:
        try:
            out = model(value)
        except NoRule as error:
            raise _refusal(error.operation, model, places[-1]) from error
        except (TypeError, AttributeError) as error:
            raise _refusal(str(error).partition("\n")[0], model, places[-1]) from error
    logits = logits_in(out, type(value))
    if logits is None:
        raise BadInput(
            f"a network that returns a {type(out).__name__} for a bound of its inputs",
            expected="logits that depend on the inputs",
            fix="wrap it to return them",
        )
    return logits


def _refusal(operation: str, model: nn.Module, place: str) -> BadInput:
    part = dict(model.named_modules()).get(place, model)
    return BadInput(
        f"{operation} in {place or 'the network'} ({type(part).__name__}), which has no bound",
        expected="linear and convolution layers, BatchNorm, monotone activations, pooling, sums",
        fix="replace the layer, or certify with Smoothing, which takes any network",
    )


@contextmanager
def _stacked(model: nn.Module) -> Iterator[list[str]]:
    """Run a block; yield the names of the modules that are being called, the innermost last."""
    stack = [""]

    def enter(name: str, *_: Any) -> None:
        stack.append(name)

    def leave(*_: Any) -> None:
        stack.pop()

    handles = []
    for name, part in model.named_modules():
        handles.append(part.register_forward_pre_hook(partial(enter, name)))
        handles.append(part.register_forward_hook(leave))
    try:
        yield stack
    finally:
        for handle in handles:
            handle.remove()
