"""The vocabulary shared by all rooms: parameters, the protocols, and `BadInput`, the one error of
user input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:  # the command line raises BadInput before anything needs torch
    from torch import Tensor, nn

Params: TypeAlias = "dict[str, Tensor]"
"""Parameters (or buffers) by name, as in `nn.Module.named_parameters`."""


class Loss(Protocol):
    """A scalar to be minimized: `(model, x, y) -> ()`; x (n, c, h, w) in [0, 1], y (n,) int64."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, /) -> Tensor: ...


class Attack(Protocol):
    """Adversarial inputs: `(model, x, y) -> x_adv`, of the shape of x and within [0, 1].

    `gradients` is how many gradients in the input a sample costs that is never fooled, a query as a
    third of one: what `cli/estimate.py` and progress count with.
    """

    @property
    def gradients(self) -> int:
        """How many gradients a sample costs."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, /) -> Tensor: ...


class Metric(Protocol):
    """A question about one network: `model -> float`. The data it asks about are part of the
    question.
    """

    def __call__(self, model: nn.Module, /) -> float: ...


class Trigger(Protocol):
    """A change of images: x (n, c, h, w) float in [0, 1] to the same shape and range."""

    def __call__(self, x: Tensor, /) -> Tensor: ...


class Defense(Protocol):
    """A way to a network that can be trusted again: `(tampered, bonafide) -> repaired`, in eval
    mode.

    `bonafide` is whatever `as_data` takes. The tampered network is left as it is; no trigger is
    ever seen. `gradients` is the number of gradient evaluations that a call takes in all, 0 where
    nothing is trained.
    """

    @property
    def gradients(self) -> int:
        """How many gradient evaluations a call takes in all."""

    def __call__(self, tampered: nn.Module, bonafide: Any, /) -> nn.Module: ...


class BadInput(ValueError):
    """Input that cannot be used: says in one line what came, what was expected, and the way out.

    >>> print(BadInput("t = 1.5", expected="0 <= t <= 1", fix="pass a point on the curve"))
    got t = 1.5; expected 0 <= t <= 1; pass a point on the curve

    Line breaks, which names of files may have, are written out.
    """

    def __init__(self, got: str, *, expected: str, fix: str) -> None:
        line = f"got {got}; expected {expected}; {fix}"
        super().__init__(line.replace("\n", "\\n").replace("\r", "\\r"))
        self.got = got
        self.expected = expected
        self.fix = fix

    def within(self, place: str) -> BadInput:
        """Return the same refusal of something in a file or a part of it, whose name comes first;
        a refusal that begins with it stays as it is.

        >>> print(BadInput("no images", expected="some", fix="add one").within("a.npz"))
        got a.npz: no images; expected some; add one
        """
        if self.got.startswith(place):
            return self
        return BadInput(f"{place}: {self.got}", expected=self.expected, fix=self.fix)
