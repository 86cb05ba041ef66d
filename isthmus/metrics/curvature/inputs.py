"""The curvature of the loss around each sample, as a function of the image.

Source: Zhao et al., ICLR 2020, section 4 and Proposition 1; docs/landscape.md. Lanczos
with full reorthogonalization: Golub and Van Loan, Matrix Computations, section 10.1.

Where we depart: the papers' code iterates one vector in the shape of a batch, shared by all
batches, whose value falls with the batch size; here each sample has its own eigenvalue, the same in
every batch. Networks whose logits are piecewise linear in the image (ReLU, max-pooling, BatchNorm
in eval mode) need no iteration: with J = dz/dx, p the softmax and S = diag(p) - p p^T, H = J^T S J.
As the rows of S sum to zero, the likeliest class may be subtracted from the others: with D their C
- 1 rows of J less its row, and q their probabilities, H = D^T (diag(q) - q q^T) D. That saves a
backward pass, and no difference of almost equal numbers is taken where the network is sure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from isthmus.data.balls import L2, Ball, Linf
from isthmus.metrics.curvature.lanczos import lanczos
from isthmus.metrics.curvature.linearity import piecewise_linear
from isthmus.models.forward import (
    as_input,
    device_of,
    frozen,
    pass_size,
    precise_logits,
    takes_channels_last,
)
from isthmus.models.memory import in_passes, out_of_memory
from isthmus.runs.wording import first_line
from isthmus.types import BadInput

Form = Literal["gram", "product", "lanczos"]
"""How it is computed: exactly from C - 1 backward passes; by products J^T S (J v); by double
backward passes.
"""


MANY_CLASSES = 100


# vectors of the size of an image that a chunk holds per sample, beside what a pass with gradients
# holds
_ROWS = 32


@dataclass(frozen=True, eq=False)
class InputHessian:
    """The loss of n samples and its first and second derivatives in the image; tensors (n,),
    float64, on the CPU.

    `top` and `bottom` are the largest and smallest eigenvalues (algebraic) of the Hessian, in nats
    per squared unit of x; `residual` is the larger of ||H v - value v|| / |top| over both unit
    eigenvectors, 0 where computed exactly. `l1` and `l2` are norms of the gradient g, `alignment`
    is c = |g^T v| / ||g||_2 with the top eigenvector v, `along_sign` is |sign(g)^T v|. `size` is
    the number of values of an image. `vectors` and `gradients` have the shape of x and are there
    only with vectors=True.
    """

    form: str
    size: int
    loss: Tensor
    top: Tensor
    bottom: Tensor
    residual: Tensor
    l1: Tensor
    l2: Tensor
    alignment: Tensor
    along_sign: Tensor
    vectors: Tensor | None = None
    gradients: Tensor | None = None

    def bounds(self, ball: Ball) -> tuple[Tensor, Tensor]:
        """Return a lower and an upper bound, each (n,), of the largest value in the ball of the
        quadratic model.

        The model is l + g^T d + d^T H d / 2. The lower bound is about the d of steepest ascent, the
        upper one takes the gradient's and the curvature's worst d apart: for L2(eps) l + eps ||g||
        + eps^2 c^2 top / 2 and l + eps ||g|| + eps^2 top / 2 (docs/landscape.md), which
        meet as c goes to 1. With a negative `bottom` the lower one is less by what H may take.
        Raises BadInput for other balls than L2 and Linf.
        """
        if isinstance(ball, L2):
            gain, along, length = self.l2, self.alignment, torch.ones_like(self.l2)
        elif isinstance(ball, Linf):
            gain, along, length = (
                self.l1,
                self.along_sign,
                torch.full_like(self.l1, float(self.size)),
            )
        else:
            raise BadInput(
                f"{ball}", expected="an L2 or Linf ball", fix="pass L2(0.5) or Linf(8 / 255)"
            )
        rest = (length - along.square()).clamp_min(0) * self.bottom.clamp_max(0)
        linear, half = self.loss + ball.eps * gain, ball.eps**2 / 2
        lower = linear + half * (along.square() * self.top + rest)
        return lower, linear + half * length * self.top.clamp_min(0)


def input_hessian(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    form: Form | Literal["auto"] = "auto",
    tolerance: float = 1e-3,
    iterations: int = 64,
    batch_size: int | None = None,
    vectors: bool = False,
) -> InputHessian:
    """Return the top eigenvalue of each sample's input Hessian of the cross-entropy, with gradient
    norms and alignment.

    x (n, c, h, w) uint8 or in [0, 1], y (n,). All of it comes from the same passes, in eval mode,
    with gradients of the input alone. `form` "auto" takes "gram" where the network is piecewise
    linear, "product" where it has 100 classes or more besides, else "lanczos", until the relative
    residual is at most `tolerance` or the given number of `iterations` is done; the residual that
    remains is in `residual`. Runs in batches sized to memory, on which the result does not depend,
    unless the network's answer on a sample depends on the rest of its batch. Precision is that of
    weights and x.

    Raises BadInput where the form, x or y are off, there are fewer than 2 classes, or no second
    derivative exists.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> curvature = input_hessian(net, torch.rand(2, 1, 2, 2), torch.tensor([0, 2]))
    >>> curvature.form, tuple(curvature.top.shape), bool((curvature.top > 0).all())
    ('gram', (2,), True)
    """
    _check(x, y, form, tolerance, iterations)
    device, last = device_of(model), takes_channels_last(model, x)

    def measured(rows: slice) -> _Measured:
        part = as_input(x[rows], device, channels_last=last)
        chunk = _Chunk(model, part, y[rows].to(device))
        used = chunk.form() if form == "auto" else form
        held = chunk.logits.shape[1] - 1 if used == "gram" else iterations
        return _Measured(used, chunk.measured(used, tolerance, iterations, vectors), held)

    with (
        frozen(model),
        sdpa_kernel(SDPBackend.MATH),
    ):  # the fast kernels of attention have no second derivative
        parts = _in_chunks(model, measured, x, batch_size)
    forms = " and ".join(sorted({part.form for part in parts}))
    names = parts[0].fields
    fields = {name: torch.cat([part.fields[name] for part in parts]) for name in names}
    return InputHessian(forms, x[0].numel(), **fields)


def _check(x: Tensor, y: Tensor, form: str, tolerance: float, iterations: int) -> None:
    known = ("auto", *get_args(Form))
    counts = (iterations >= 1, len(x) == len(y), len(x) > 0)
    if form not in known or not tolerance > 0 or not all(counts):
        raise BadInput(
            f"form = {form!r}, tolerance = {tolerance:g}, iterations = {iterations}, "
            f"{len(x)} images, {len(y)} labels",
            expected=f"auto or one of {get_args(Form)}, both above zero, one label an image",
            fix="leave the options out",
        )


class _Measured(NamedTuple):
    """What a chunk gave: in which form, the fields of `InputHessian`, and how many vectors of the
    size of an image it held for a sample.
    """

    form: str
    fields: dict[str, Tensor]
    vectors: int


def _in_chunks(
    model: nn.Module, measured: Callable[[slice], _Measured], x: Tensor, batch_size: int | None
) -> list[_Measured]:
    """Return what is measured on chunks that make up x, as large as memory allows.

    The first chunk says how many vectors a sample takes, and so how large the others are.
    """
    if batch_size:
        return in_passes(model, measured, len(x), batch_size)
    device = device_of(model)
    # what has been recorded is walked many times, which is faster on a CPU where less has been
    largest = max(1, pass_size(x, device, gradients=True) // (2 if device.type == "cpu" else 1))
    done = min(largest, len(x))
    parts = in_passes(model, measured, done, largest)

    def later(rows: slice) -> _Measured:
        return measured(slice(done + rows.start, done + rows.stop))

    size = max(1, largest * _ROWS // max(_ROWS, parts[0].vectors))
    return parts + in_passes(model, later, len(x) - done, size)


def input_hessian_top(model: nn.Module, x: Tensor, y: Tensor, **options: Any) -> Tensor:
    """Return the largest eigenvalue of each sample's input Hessian, (n,), float64:
    `input_hessian(...).top`.
    """
    return input_hessian(model, x, y, **options).top


class _Chunk:
    """A batch that has passed through the network once, with autograd's record of it."""

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x.detach().requires_grad_(), y
        with torch.enable_grad():
            self.logits = precise_logits(model, self.x)
        differentiable = self.logits.requires_grad
        if self.logits.shape[1] < 2 or not differentiable:
            manner = "differentiable" if differentiable else "not differentiable"
            raise BadInput(
                f"{self.logits.shape[1]} logits, {manner} in x",
                expected="a differentiable network of 2 classes or more",
                fix="give each class a logit",
            )

    def form(self) -> Form:
        """Return the cheapest form that is right for this network."""
        if not piecewise_linear(self.logits, self.x):
            return "lanczos"
        return "gram" if self.logits.shape[1] < MANY_CLASSES else "product"

    def measured(
        self, form: str, tolerance: float, iterations: int, vectors: bool
    ) -> dict[str, Tensor]:
        """Return the fields of `InputHessian` for these samples."""
        try:
            with torch.enable_grad():
                if form == "gram":
                    top, bottom, residual, v, g = self._gram()
                else:
                    semidefinite = form == "product"
                    g, product = self._product() if semidefinite else self._double_backward()
                    top, bottom, residual, v = lanczos(
                        product, g, tolerance, iterations, semidefinite=semidefinite
                    )
        except (RuntimeError, NotImplementedError) as error:
            if out_of_memory(error):
                raise
            raise BadInput(
                f"a network without a second derivative in its input ({first_line(error)})",
                expected="operations that autograd can differentiate twice",
                fix="write them in plain torch operations",
            ) from error
        g, v = g.double(), v.double()
        l2, tiny = g.norm(dim=1), torch.finfo(torch.float64).tiny
        fields = {
            "loss": F.cross_entropy(self.logits.double(), self.y, reduction="none"),
            "top": top,
            "bottom": bottom,
            "residual": residual,
            "l1": g.abs().sum(1),
            "l2": l2,
            "alignment": (g * v).sum(1).abs() / l2.clamp_min(tiny),
            "along_sign": (g.sign() * v).sum(1).abs(),
        }
        if vectors:
            fields |= {"vectors": v.view_as(self.x), "gradients": g.view_as(self.x)}
        return {name: value.detach().cpu() for name, value in fields.items()}

    def _error(self) -> Tensor:
        """p - y, the gradient of the loss in the logits, (n, C), float64."""
        return self.logits.detach().double().softmax(1) - F.one_hot(self.y, self.logits.shape[1])

    def _gram(self) -> tuple[Tensor, ...]:
        """Top, bottom, residual, eigenvector and gradient from the Gram matrix of C - 1 differences
        of logits.
        """
        order = self.logits.detach().argsort(dim=1, descending=True, stable=True)
        ranked = self.logits.gather(1, order)
        rows = self.x.new_empty(len(self.x), order.shape[1] - 1, self.x[0].numel())
        for c in range(
            1, order.shape[1]
        ):  # samples do not interact, so one pass serves the whole batch
            difference = (ranked[:, c] - ranked[:, 0]).sum()
            rows[:, c - 1] = torch.autograd.grad(difference, self.x, retain_graph=True)[0].flatten(
                1
            )
        p = ranked.detach().double().softmax(1)
        q, scale = p[:, 1:], 1 / (1 + p[:, :1].sqrt())
        root = q.sqrt()  # diag(q) - q q^T = L L^T with L = diag(root) (1 - scale root root^T)
        factor = torch.diag_embed(root) - scale[:, :, None] * q[:, :, None] * root[:, None, :]
        values, u = torch.linalg.eigh(factor.mT @ (rows @ rows.mT).double() @ factor)
        direction, error = factor @ u[:, :, -1:], self._error().gather(1, order)[:, 1:, None]
        v, g = (torch.cat([direction, error], 2).mT.to(rows) @ rows).unbind(1)
        values, rank = values.clamp_min(0), self.x[0].numel()
        bottom = values[:, -rank] if rank <= values.shape[1] else torch.zeros_like(values[:, 0])
        return values[:, -1], bottom, torch.zeros_like(bottom), F.normalize(v.double(), dim=1), g

    def _product(self) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The gradient, and v -> J^T S (J v), of networks that are piecewise linear; nothing passes
        forward again.

        J v is the derivative in u of (J^T u)^T v: a pass through the record of one backward pass.
        """
        u = torch.zeros_like(self.logits, requires_grad=True)
        (pulled,) = torch.autograd.grad(self.logits, self.x, u, create_graph=True)
        p = self.logits.detach().softmax(1)

        def product(v: Tensor) -> Tensor:
            (pushed,) = torch.autograd.grad(pulled, u, v.view_as(pulled), retain_graph=True)
            weighted = p * pushed - p * (p * pushed).sum(1, keepdim=True)
            return torch.autograd.grad(self.logits, self.x, weighted, retain_graph=True)[0].flatten(
                1
            )

        (g,) = torch.autograd.grad(
            self.logits, self.x, self._error().to(self.logits), retain_graph=True
        )
        return g.flatten(1), product

    def _double_backward(self) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The gradient, and v -> d/dx (g^T v), of any network."""
        (g,) = torch.autograd.grad(
            F.cross_entropy(self.logits, self.y, reduction="sum"), self.x, create_graph=True
        )

        def product(v: Tensor) -> Tensor:
            return torch.autograd.grad(g, self.x, v.view_as(g), retain_graph=True)[0].flatten(1)

        return g.detach().flatten(1), product
