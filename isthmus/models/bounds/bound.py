"""What all kinds of bounds can do, and how they stand in for tensors.

Through `__torch_function__` a network's own forward pass runs on a bound: it is not rewritten or
traced first, and gradients reach its weights. Values that the pass makes itself are constants.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from isthmus.models.fixed_point import Solver, Weights

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

    Layers call the methods below through `__torch_function__`.
    """

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
        """Return the bound after maxima or averages of at most `terms` values."""

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
        """The shape of the values that are bounded."""
        return self.like.shape

    @property
    def dtype(self) -> torch.dtype:
        """Their type."""
        return self.like.dtype

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.like.device

    @property
    def ndim(self) -> int:
        """The number of axes."""
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
    second.
    """
    one.__dict__["shared"] = other.__dict__["shared"] = True
    return other


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a function as the rule of the operations of these names."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register
