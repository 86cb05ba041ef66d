"""The curvature of the loss around each sample, as a function of the image, and of the mean loss in the weights.

Source: Zhao et al., ICLR 2020, section 4 and Proposition 1; specification, sections 9 and 10. Lanczos with full
reorthogonalisation: Golub and Van Loan, Matrix Computations, section 10.1; ARPACK through scipy for the weights.

Where we depart: the papers' code iterates one vector in the shape of a batch, shared by all batches, whose value falls
with the batch size; here each sample has its own eigenvalue, the same in every batch. Networks whose logits are
piecewise linear in the image (ReLU, max-pooling, BatchNorm in eval mode) need no iteration: with J = dz/dx, p the
softmax and S = diag(p) - p p^T, H = J^T S J. As the rows of S sum to zero, the likeliest class may be subtracted from
the others: with D their C - 1 rows of J less its row, and q their probabilities, H = D^T (diag(q) - q q^T) D. That
saves a backward pass, and no difference of almost equal numbers is taken where the network is sure.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.nn.attention import SDPBackend, sdpa_kernel

from isthmus.attacks.objectives import cross_entropy
from isthmus.attacks.victim import Victim
from isthmus.balls import L2, Ball, Linf
from isthmus.engine import as_input, device_of, eval_mode, frozen, pass_size, takes_channels_last
from isthmus.types import BadInput, first_line
from isthmus.view import View

Form = Literal["gram", "product", "lanczos"]
"""How it is computed: exactly from C - 1 backward passes; by products J^T S (J v); by double backward passes."""

MANY_CLASSES = 100
_ROWS = 32  # vectors of the size of an image that a chunk holds per sample, beside what a pass with gradients holds

# Nodes of autograd's graph, without "Backward": what is linear in each of its inputs, or in pieces; and what is a
# product of some of its inputs, of which at most one may depend on the image.
_LINEAR = re.compile(
    "Add|AddRelu|Sub|Rsub|Neg|Sum|Mean|Cumsum|Clone|ToCopy|Alias|View|UnsafeView|ReshapeAlias|ReshapeCopy|AsStrided|"
    "Expand|Repeat|Permute|Transpose|T|Flip|Rot90|Roll|Select|Slice|Narrow|NarrowCopy|Index|IndexSelect|Gather|Where|"
    "MaskedFill|Squeeze|Unsqueeze|Split|SplitWithSizes|Unbind|Cat|Stack|Unfold|Im2Col|Col2Im|Diagonal|PixelShuffle|"
    r"PixelUnshuffle|ChannelShuffle|ConstantPadNd|(Reflection|Replication)Pad\dD|(Adaptive)?AvgPool\dD|"
    r"Upsample(Nearest|NearestExact|Linear|Bilinear|Trilinear|Bicubic)\dD|"
    "Relu|LeakyRelu|PreluKernel|Threshold|Hardtanh|Clamp|ClampMin|ClampMax|Abs|Max|Min|Amax|Amin|Maximum|Minimum|"
    r"(Adaptive)?MaxPool\dD(WithIndices)?"
)
_FACTORS = {
    **dict.fromkeys(("Mul", "Mm", "Bmm", "Mv", "Dot", "Linear", "MkldnnLinear"), slice(0, 2)),
    **dict.fromkeys(("Convolution", "MkldnnConvolution", "SlowConv2D", "CudnnConvolution"), slice(0, 2)),
    **dict.fromkeys(("Addmm", "Baddbmm", "Addmv"), slice(1, 3)),
}
_BATCHNORM = {"NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm"}


def piecewise_linear(outputs: Tensor, x: Tensor) -> bool:
    """Return whether the outputs, just computed from x, are known to be piecewise linear in it.

    Autograd's record of the pass is read, so functions count like modules; weights, and what is computed from weights
    alone, may be anything. What is not known counts as not linear.

    >>> x = torch.rand(2, 3, requires_grad=True)
    >>> piecewise_linear(nn.Linear(3, 2)(x).relu(), x), piecewise_linear(x * x, x), piecewise_linear(F.gelu(x), x)
    (True, False, False)
    """
    leaf, depends = get_gradient_edge(x).node, dict[Any, bool]()
    stack: list[Any] = [outputs.grad_fn] if outputs.grad_fn is not None else []
    while stack:
        node = stack[-1]
        children = [child for child, _ in node.next_functions]
        unknown = [child for child in children if child is not None and child not in depends]
        if unknown:
            stack += unknown
            continue
        stack.pop()
        reached = [child is not None and depends[child] for child in children]
        depends[node] = node is leaf or any(reached)
        if node is not leaf and any(reached) and not _is_linear(node, reached):
            return False
    return True


def _is_linear(node: Any, reached: list[bool]) -> bool:
    """Whether one node is piecewise linear in those of its inputs that depend on the image."""
    name = re.sub(r"Backward\d*$", "", node.name())
    if name in _FACTORS:
        return sum(reached[_FACTORS[name]]) <= 1
    if name in _BATCHNORM:
        return not getattr(node, "_saved_training", True) and not any(reached[1:])
    return bool(_LINEAR.fullmatch(name)) or (name == "Div" and not any(reached[1:]))


@dataclass(frozen=True, eq=False)
class InputHessian:
    """The loss of n samples and its first and second derivatives in the image; tensors (n,), float64, on the CPU.

    `top` and `bottom` are the largest and smallest eigenvalues (algebraic) of the Hessian, in nats per squared unit of
    x; `residual` is the larger of ||H v - value v|| / |top| over both unit eigenvectors, 0 where computed exactly.
    `l1` and `l2` are norms of the gradient g, `alignment` is c = |g^T v| / ||g||_2 with the top eigenvector v,
    `along_sign` is |sign(g)^T v|. `size` is the number of values of an image. `vectors` and `gradients` have the shape
    of x and are there where they were asked for.
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
        """Return a lower and an upper bound, each (n,), of the largest value in the ball of the quadratic model.

        The model is l + g^T d + d^T H d / 2. The lower bound is about the d of steepest ascent, the upper one takes the
        gradient's and the curvature's worst d apart: for L2(eps) l + eps ||g|| + eps^2 c^2 top / 2 and
        l + eps ||g|| + eps^2 top / 2 (specification, section 10), which meet as c goes to 1. With a negative `bottom`
        the lower one is less by what H may take. Raises BadInput for other balls than L2 and Linf.
        """
        if isinstance(ball, L2):
            gain, along, length = self.l2, self.alignment, torch.ones_like(self.l2)
        elif isinstance(ball, Linf):
            gain, along, length = self.l1, self.along_sign, torch.full_like(self.l1, float(self.size))
        else:
            raise BadInput(f"{ball}", expected="an L2 or Linf ball", fix="take one of these two")
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
    """Return the top eigenvalue of each sample's input Hessian of the cross-entropy, with gradient norms and alignment.

    x (n, c, h, w) uint8 or in [0, 1], y (n,). All of it comes from the same passes, in eval mode, with gradients of the
    input alone. `form` "auto" takes "gram" where the network is piecewise linear, "product" where it has 100 classes or
    more besides, else "lanczos", until the relative residual is at most `tolerance` or so many `iterations` are done;
    what is left of it is in `residual`. In batches sized to memory; the result does not depend on them, but a network
    whose answer on a sample depends on the rest of the batch has none. Precision is that of weights and x.

    Raises BadInput where the form, x or y are off, there are fewer than 2 classes, or no second derivative exists.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> found = input_hessian(net, torch.rand(2, 1, 2, 2), torch.tensor([0, 2]))
    >>> found.form, tuple(found.top.shape), bool((found.top > 0).all())
    ('gram', (2,), True)
    """
    if form not in ("auto", *get_args(Form)) or not tolerance > 0 or iterations < 1 or len(x) != len(y) or not len(x):
        raise BadInput(
            f"form = {form!r}, tolerance = {tolerance:g}, iterations = {iterations}, {len(x)} images, {len(y)} labels",
            expected=f"auto or one of {get_args(Form)}, both above zero, one label an image",
            fix="leave the options out",
        )
    device, last = device_of(model), takes_channels_last(model, x)
    # what has been recorded is walked many times, which is faster on a CPU where less has been
    largest = max(1, pass_size(x, device, gradients=True) // (2 if device.type == "cpu" else 1))
    size, rows = batch_size or largest, 0
    parts: list[tuple[str, dict[str, Tensor]]] = []
    with frozen(model), sdpa_kernel(SDPBackend.MATH):  # the fast kernels of attention have no second derivative
        while rows < len(x):
            part, labels = x[rows : rows + size], y[rows : rows + size].to(device)
            chunk = _Chunk(model, as_input(part, device, channels_last=last), labels)
            used = form if form != "auto" else chunk.form()
            rows += len(part)
            parts.append((used, chunk.measured(used, tolerance, iterations, vectors)))
            if not batch_size:  # the first chunk has said how many vectors a sample takes
                held = chunk.logits.shape[1] - 1 if used == "gram" else iterations
                size = max(1, largest * _ROWS // max(_ROWS, held))
    names = " and ".join(sorted({used for used, _ in parts}))
    return InputHessian(names, x[0].numel(), **{k: torch.cat([part[k] for _, part in parts]) for k in parts[0][1]})


def input_hessian_top(model: nn.Module, x: Tensor, y: Tensor, **options: Any) -> Tensor:
    """Return the largest eigenvalue of each sample's input Hessian, (n,), float64: `input_hessian(...).top`."""
    return input_hessian(model, x, y, **options).top


class _Chunk:
    """A batch that has passed through the network once, with autograd's record of it."""

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x.detach().requires_grad_(), y
        with torch.enable_grad():
            self.logits = Victim(model).run(self.x)
        if self.logits.shape[1] < 2 or not self.logits.requires_grad:
            raise BadInput(
                f"{self.logits.shape[1]} logits, {'' if self.logits.requires_grad else 'not '}differentiable in x",
                expected="a differentiable network of 2 classes or more",
                fix="give each class a logit",
            )

    def form(self) -> Form:
        """Return the cheapest form that is right for this network."""
        if not piecewise_linear(self.logits, self.x):
            return "lanczos"
        return "gram" if self.logits.shape[1] < MANY_CLASSES else "product"

    def measured(self, form: str, tolerance: float, iterations: int, vectors: bool) -> dict[str, Tensor]:
        """Return the fields of `InputHessian` for these samples."""
        try:
            with torch.enable_grad():
                if form == "gram":
                    top, bottom, residual, v, g = self._gram()
                else:
                    semidefinite = form == "product"
                    g, product = self._product() if semidefinite else self._double_backward()
                    top, bottom, residual, v = lanczos(product, g, tolerance, iterations, semidefinite=semidefinite)
        except (RuntimeError, NotImplementedError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise BadInput(
                f"a network without a second derivative in its input ({first_line(error)})",
                expected="operations that autograd can differentiate twice",
                fix="write them in plain torch operations",
            ) from error
        g, v = g.double(), v.double()
        l2, tiny = g.norm(dim=1), torch.finfo(torch.float64).tiny
        found = {
            "loss": cross_entropy(self.logits.double(), self.y), "top": top, "bottom": bottom, "residual": residual,
            "l1": g.abs().sum(1), "l2": l2, "alignment": (g * v).sum(1).abs() / l2.clamp_min(tiny),
            "along_sign": (g.sign() * v).sum(1).abs(),
        }  # fmt: skip
        if vectors:
            found |= {"vectors": v.view_as(self.x), "gradients": g.view_as(self.x)}
        return {name: value.detach().cpu() for name, value in found.items()}

    def _error(self) -> Tensor:
        """p - y, the gradient of the loss in the logits, (n, C), float64."""
        return self.logits.detach().double().softmax(1) - F.one_hot(self.y, self.logits.shape[1])

    def _gram(self) -> tuple[Tensor, ...]:
        """Top, bottom, residual, eigenvector and gradient from the Gram matrix of C - 1 differences of logits."""
        order = self.logits.detach().argsort(dim=1, descending=True, stable=True)
        ranked = self.logits.gather(1, order)
        rows = self.x.new_empty(len(self.x), order.shape[1] - 1, self.x[0].numel())
        for c in range(1, order.shape[1]):  # samples do not interact, so one pass serves the whole batch
            difference = (ranked[:, c] - ranked[:, 0]).sum()
            rows[:, c - 1] = torch.autograd.grad(difference, self.x, retain_graph=True)[0].flatten(1)
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
        """The gradient, and v -> J^T S (J v), of networks that are piecewise linear; nothing passes forward again.

        J v is the derivative in u of (J^T u)^T v: a pass through the record of one backward pass.
        """
        u = torch.zeros_like(self.logits, requires_grad=True)
        (pulled,) = torch.autograd.grad(self.logits, self.x, u, create_graph=True)
        p = self.logits.detach().softmax(1)

        def product(v: Tensor) -> Tensor:
            (pushed,) = torch.autograd.grad(pulled, u, v.view_as(pulled), retain_graph=True)
            weighted = p * pushed - p * (p * pushed).sum(1, keepdim=True)
            return torch.autograd.grad(self.logits, self.x, weighted, retain_graph=True)[0].flatten(1)

        (g,) = torch.autograd.grad(self.logits, self.x, self._error().to(self.logits), retain_graph=True)
        return g.flatten(1), product

    def _double_backward(self) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The gradient, and v -> d/dx (g^T v), of any network."""
        (g,) = torch.autograd.grad(cross_entropy(self.logits, self.y).sum(), self.x, create_graph=True)

        def product(v: Tensor) -> Tensor:
            return torch.autograd.grad(g, self.x, v.view_as(g), retain_graph=True)[0].flatten(1)

        return g.detach().flatten(1), product


def lanczos(
    product: Callable[[Tensor], Tensor],
    gradient: Tensor,
    tolerance: float,
    iterations: int,
    *,
    semidefinite: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return of n symmetric matrices (d, d) the largest and smallest eigenvalue, the residual, the top eigenvector.

    `product` maps (n, d) to (n, d), one matrix a row. Each row starts at the sum of its direction in `gradient` and one
    random direction that all rows share, and gives the answer of the step at which its own residuals are at most
    `tolerance` times the largest eigenvalue, so no row's answer depends on another's. Of matrices known to be
    `semidefinite` and singular, the smallest one is 0 and not waited for.
    """
    n, d = gradient.shape
    steps, tiny = min(iterations, d), torch.finfo(torch.float64).tiny
    basis = gradient.new_zeros(n, steps, d)
    tridiagonal = torch.zeros(n, steps, steps, dtype=torch.float64, device=gradient.device)
    generator = torch.Generator().manual_seed(0)
    shared = F.normalize(torch.randn(d, generator=generator, dtype=torch.float64), dim=0).to(gradient)
    v = F.normalize(F.normalize(gradient, dim=1) + shared, dim=1)
    top, bottom, residual = (torch.zeros(n, dtype=torch.float64, device=gradient.device) for _ in range(3))
    weights, done = torch.zeros_like(tridiagonal[:, 0]), torch.zeros_like(top, dtype=torch.bool)
    for k in range(steps):
        basis[:, k] = v
        w, sofar = product(v), basis[:, : k + 1]
        tridiagonal[:, k, k] = (w * v).sum(1).double()
        for _ in range(2):  # once more for what rounding has left
            w = w - ((sofar @ w[:, :, None]).mT @ sofar)[:, 0]
        beta = w.norm(dim=1).double()
        values, s = torch.linalg.eigh(tridiagonal[:, : k + 1, : k + 1])
        ends = s[:, -1, -1:] if semidefinite else s[:, -1, [0, -1]]
        left = beta * ends.abs().amax(1) / values[:, -1].abs().clamp_min(tiny)
        now = ~done
        top[now], residual[now] = values[now, -1], left[now]
        bottom[now] = 0 if semidefinite else values[now, 0]
        weights[now, : k + 1] = s[now, :, -1]
        done |= left <= tolerance
        if bool(done.all()) or k + 1 == steps:
            break
        tridiagonal[:, k, k + 1] = tridiagonal[:, k + 1, k] = beta
        v = F.normalize(w, dim=1)
    return top, bottom, residual, (weights[:, None].to(basis) @ basis)[:, 0]


def weight_hessian_top(
    model: nn.Module, x: Tensor, y: Tensor, *, tolerance: float = 1e-2, batch_size: int | None = None
) -> float:
    """Return the largest eigenvalue of the Hessian of the mean cross-entropy in the trainable weights.

    By ARPACK, to the relative accuracy `tolerance`, on products of double backward passes in batches sized to memory;
    eval mode, so BatchNorm stays what it is. x (n, c, h, w) uint8 or in [0, 1], y (n,). Raises BadInput where fewer
    than two weights train, or ARPACK does not converge.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> weight_hessian_top(net, torch.rand(8, 1, 2, 2), torch.arange(8) % 3) > 0
    True
    """
    view, device = View.of(model), device_of(model)
    weights = {name: w.detach().clone().requires_grad_() for name, w in view.weights.items() if w.is_floating_point()}
    sizes = [w.numel() for w in weights.values()]
    if sum(sizes) < 2:
        raise BadInput(f"{sum(sizes)} trainable weights", expected="two or more", fix="call requires_grad_() on some")
    live = View(view.net, {**view.weights, **weights}, view.kept, view.scratch, view.placed)
    chosen, batch = list(weights.values()), batch_size or pass_size(x, device, gradients=True)
    last = takes_channels_last(view.net if not isinstance(model, View) else live, x)

    def gradients(rows: slice) -> list[Tensor]:
        part = as_input(x[rows], device, channels_last=last)
        loss = cross_entropy(live(part), y[rows].to(device)).sum() / len(x)
        return list(torch.autograd.grad(loss, chosen, create_graph=True, materialize_grads=True))

    def product(vector: np.ndarray) -> np.ndarray:
        flat = torch.as_tensor(vector.reshape(-1)).to(chosen[0])
        v = [part.view_as(w).to(w) for part, w in zip(flat.split(sizes), chosen, strict=True)]
        total = torch.zeros(sum(sizes), dtype=torch.float64)
        for graph in graphs or (gradients(slice(i, i + batch)) for i in range(0, len(x), batch)):
            along = torch.stack([(g * each).sum() for g, each in zip(graph, v, strict=True)]).sum()
            found = torch.autograd.grad(along, chosen, retain_graph=bool(graphs), materialize_grads=True)
            total += torch.cat([part.detach().double().cpu().reshape(-1) for part in found])
        return total.numpy()

    with eval_mode(view.net), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        graphs = [gradients(slice(0, len(x)))] if len(x) <= batch else []  # one that fits is recorded once
        operator = LinearOperator((sum(sizes), sum(sizes)), matvec=product, dtype=np.float64)
        start = np.random.default_rng(0).standard_normal(sum(sizes))
        try:
            found = eigsh(operator, k=1, which="LA", tol=tolerance, v0=start, return_eigenvectors=False)
        except ArpackNoConvergence as error:
            raise BadInput(
                f"a Hessian whose top eigenvalue did not converge ({first_line(error)})",
                expected="convergence within ten iterations per weight",
                fix="raise tolerance, or check the loss",
            ) from error
    return float(found[0])
