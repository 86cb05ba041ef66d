"""How bounds go through a network: the rules of its layers, and the refusal of what has none.

A bound stands in for a tensor through `__torch_function__`, so a network is not rewritten or traced
first, its own forward pass runs, and gradients reach its weights. Values that a forward pass makes
itself count as constants. BatchNorm is bounded in eval mode."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isthmus.models.fixed_point import Solver, Weights
from isthmus.models.forward import eval_mode
from isthmus.types import BadInput

B = TypeVar("B", bound="Bound")
Product = Callable[[Tensor, Tensor], Tensor]
"""`(values, weight) -> values`, linear in both: a layer without its bias."""


class NoRule(Exception):
    """A forward pass does what no bound can follow; `operation` says what."""

    def __init__(self, operation: str) -> None:
        super().__init__(operation)
        self.operation = operation


class NoBound(Exception):
    """A fixed point of bounds does not exist, or was not reached: nothing is certified."""


class Bound(ABC):
    """What is known of every value of a tensor (n, ...).

    Layers call the methods below through `__torch_function__`."""

    @property
    @abstractmethod
    def like(self) -> Tensor:
        """A tensor of the shape, type and device of the values."""

    @abstractmethod
    def affine(self, product: Product, weight: Tensor, bias: Tensor | None) -> Self:
        """Return the bound of product(values, weight) + bias, whose shape is (o, 1, ...)."""

    @abstractmethod
    def times(self, factor: Tensor | float) -> Self:
        """Return the bound of the values times a constant."""

    @abstractmethod
    def plus(self, other: Any) -> Self:
        """Return the bound of the sum with another bound or a constant."""

    @abstractmethod
    def monotone(self, function: Callable[[Tensor], Tensor], slope: float) -> Self:
        """Return the bound after an elementwise function that never falls, nor rises by more than
        `slope`.
        """

    @abstractmethod
    def pooled(self, function: Callable[[Tensor], Tensor], terms: int) -> Self:
        """Return the bound after maxima or averages of at most so many values."""

    @abstractmethod
    def arranged(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Return the bound after a change of layout."""

    @abstractmethod
    def joined(self, function: Callable[[list[Tensor]], Tensor], parts: Sequence[Any]) -> Self:
        """Return the bound of tensors laid out together; some of them are bounds, like this."""

    @abstractmethod
    def padded(self, function: Callable[[Tensor], Tensor], value: float) -> Self:
        """Return the bound after padding with a constant."""

    @abstractmethod
    def fixed_point(self, operator: Weights, rough: Solver, fine: Solver) -> Self:
        """Return the bound of the fixed points z = relu(A z + values). Raises NoBound."""

    @property
    def shape(self) -> torch.Size:
        return self.like.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.like.dtype

    @property
    def device(self) -> torch.device:
        return self.like.device

    @property
    def ndim(self) -> int:
        return self.like.ndim

    def dim(self) -> int:
        """Return the number of axes."""
        return self.ndim

    def size(self, axis: int | None = None) -> Any:
        """Return the shape, or the size of an axis."""
        return self.shape if axis is None else self.shape[axis]

    def __len__(self) -> int:
        return len(self.like)

    def cast(self, value: Tensor) -> Tensor:
        """Return a constant in the type of the values."""
        return value.to(self.like)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", str(func))
        return called(name, args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        if name in ("T", "mT"):
            return sharing(self, self.arranged(lambda v: getattr(v, name)))
        if name.startswith("__") or not hasattr(Tensor, name):
            raise AttributeError(name)
        if not callable(getattr(Tensor, name)):
            raise NoRule(name)
        return lambda *args, **kwargs: called(name, (self, *args), kwargs)

    def __add__(self, other: Any) -> Any:
        return called("add", (self, other), {})

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        return called("sub", (self, other), {})

    def __rsub__(self, other: Any) -> Any:
        return called("rsub", (self, other), {})

    def __mul__(self, other: Any) -> Any:
        return called("mul", (self, other), {})

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        return called("div", (self, other), {})

    def __neg__(self) -> Any:
        return self.times(-1.0)

    def __getitem__(self, index: Any) -> Any:
        return sharing(self, self.arranged(lambda v: v[index]))

    def __matmul__(self, other: Any) -> Any:
        return called("matmul", (self, other), {})

    def __bool__(self) -> bool:
        raise NoRule("a branch on a value")

    def _refused(self, *_: Any) -> Any:
        raise NoRule("a comparison, power or division by a value")

    __lt__ = __le__ = __gt__ = __ge__ = __ne__ = _refused
    __pow__ = __rpow__ = __rtruediv__ = __mod__ = __floordiv__ = __rmatmul__ = _refused

    def __iadd__(self, other: Any) -> Any:
        return called("add_", (self, other), {})

    def __isub__(self, other: Any) -> Any:
        return called("sub_", (self, other), {})

    def __imul__(self, other: Any) -> Any:
        return called("mul_", (self, other), {})

    def __itruediv__(self, other: Any) -> Any:
        return called("div_", (self, other), {})

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    __hash__ = object.__hash__
    __eq__ = _refused


Rule = Callable[..., Bound]
RULES: dict[str, Rule] = {}
"""What each operation of a forward pass does to a bound, by the name that torch gives it."""

_NAMES = {"subtract": "sub", "multiply": "mul", "true_divide": "div", "__rsub__": "rsub"}


def called(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Return what an operation makes of its bounds. Raises NoRule where it has no rule."""
    plain = _NAMES.get(name, name)
    if plain not in RULES:
        plain = plain.strip("_").removeprefix("r" if plain.startswith("__r") else "")
        plain = _NAMES.get(plain, plain)
    if plain not in RULES:
        raise NoRule(name)
    result = RULES[plain](*args, **kwargs)
    in_place = kwargs.get("inplace") or (name.endswith("_") and not name.endswith("__"))
    if not in_place:
        return result
    if not isinstance(args[0], Bound) or args[0].__dict__.get("shared"):
        raise NoRule(f"{name} in place, on memory that other values share")
    args[0].__dict__.update(result.__dict__)
    return args[0]


def sharing(one: Bound, other: B) -> B:
    """Mark two bounds whose tensors share memory, so that neither is changed in place; return the
    second."""
    one.__dict__["shared"] = other.__dict__["shared"] = True
    return other


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a function as the rule of the operations of these names."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


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


@rule("float", "double", "half", "bfloat16", "to", "detach", "requires_grad")
def _kept(input: Bound, *args: Any, **kwargs: Any) -> Bound:
    """Casts are ignored: a bound is kept in its own precision."""
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
    NoBound where a fixed point of bounds is not reached."""
    with eval_mode(model), _stacked(model) as places:
        try:
            out = model(value)
        except NoRule as error:
            raise _refusal(error.operation, model, places[-1]) from error
        except (TypeError, AttributeError) as error:
            raise _refusal(str(error).partition("\n")[0], model, places[-1]) from error
    if not isinstance(out, type(value)):
        raise BadInput(
            f"a network that returns a {type(out).__name__} for a bound of its inputs",
            expected="logits that depend on the inputs",
            fix="wrap it to return them",
        )
    return out


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
