"""Losses `(model, x, y) -> scalar`; training differs in nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isthmus.models.forward import forward_pass, logits_of
from isthmus.models.view import View, copied
from isthmus.runs.identity import sha256_of
from isthmus.types import Attack, BadInput, Loss, Params


def _wide(out: object) -> Tensor:
    logits = logits_of(out)
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the mean cross-entropy of the model's logits, in nats, computed in float32 or better.

    >>> model = nn.Linear(2, 4)
    >>> _ = nn.init.zeros_(model.weight), nn.init.zeros_(model.bias)
    >>> round(cross_entropy(model, torch.ones(3, 2), torch.tensor([0, 1, 2])).item(), 4)  # log 4
    1.3863
    """
    return F.cross_entropy(_wide(forward_pass(model, x)), y)


def gradients_per_step(part: Loss | Attack) -> int:
    """Return how many gradients of a batch a step takes for a loss, those of its attack among them,
    or for an attack: its `gradients`, and 1 where it does not say.

    >>> gradients_per_step(cross_entropy), gradients_per_step(sharpness_aware())
    (1, 2)
    """
    return int(getattr(part, "gradients", 1))


def for_training(attack: Attack) -> Attack:
    """Return the attack in its form for training (all steps, fresh draws) where it has one,
    `attack.for_training()`.
    """
    form: Callable[[], Attack] | None = getattr(attack, "for_training", None)
    return form() if form is not None else attack


@dataclass(frozen=True)
class Adversarial:
    """The loss on attacked inputs. See `adversarial`."""

    attack: Attack
    loss: Loss = cross_entropy

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return loss(model, attack(model, x, y), y); no gradient passes through the attack."""
        return self.loss(model, self.attack(model, x, y).detach(), y)

    @property
    def gradients(self) -> int:
        """How many gradients a step takes."""
        return gradients_per_step(self.attack) + gradients_per_step(self.loss)


def adversarial(attack: Attack, loss: Loss = cross_entropy) -> Adversarial:
    """Return the loss of adversarial training: min over weights of the loss on the worst inputs
    that `attack` finds.

    An attack that has `for_training()` is used in that form. It moves no buffer and computes no
    gradient of a weight. On a point of a curve attack and loss see the same t, so a robust path is
    `expected_over_t(adversarial(PGD(Linf(8 / 255), steps=7)))`, one against several norms
    `expected_over_t(adversarial(MSD((Linf(8 / 255), L2(0.5), L1(12)))))`, and one by fast training
    `expected_over_t(adversarial(NoiseFGSM(Linf(8 / 255))))`. Source: Madry et al., ICLR 2018, Eq.
    2.1.
    """
    return Adversarial(for_training(attack), loss)


@dataclass(frozen=True)
class Trades:
    """The loss of TRADES. See `trades`."""

    attack: Attack
    beta: float = 6.0

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return cross_entropy(f(x), y) + beta KL(f(x) || f(x_adv)), a mean over the batch."""
        clean = _wide(forward_pass(model, x))
        shares = clean.detach().softmax(1)
        attacked = _wide(forward_pass(model, self.attack(model, x, shares).detach()))
        return F.cross_entropy(clean, y) + self.beta * divergence(attacked, clean)

    @property
    def gradients(self) -> int:
        """How many gradients a step takes."""
        return gradients_per_step(self.attack) + 2


def trades(attack: Attack, beta: float = 6.0) -> Trades:
    """Return the loss of TRADES, clean accuracy against robustness by beta (Zhang et al., ICML
    2019, Eq. 5).

    The attack has to raise the divergence from the clean outputs: it is called with those, (n,
    classes) shares, in the place of labels, and its cross-entropy with them differs from the
    divergence by a constant. `PGD` takes them.

    Where we depart: the clean outputs that the attack starts from are those of the training pass,
    not of another one in eval mode. Raises BadInput where beta is negative.
    """
    if not beta >= 0:
        raise BadInput(
            f"beta = {beta}", expected="0 or more", fix="6 is the paper's choice for CIFAR-10"
        )
    return Trades(for_training(attack), beta)


@dataclass(frozen=True, eq=False)
class Distillation:
    """The divergence from a teacher's answers. See `distillation`; `recognized` is a hash of the
    teacher.
    """

    teacher: nn.Module = field(repr=False)
    temperature: float
    recognized: str = field(init=False)

    def __post_init__(self) -> None:
        state = self.teacher.state_dict().values()
        tensors = [value for value in state if isinstance(value, Tensor)]
        object.__setattr__(self, "recognized", sha256_of(*tensors)[:16])

    def __call__(self, model: nn.Module, x: Tensor, _: Tensor) -> Tensor:
        """Return the divergence, a mean over the batch; labels are not read."""
        with torch.no_grad():
            answers = _wide(forward_pass(self.teacher.to(x.device), x))
        return divergence(_wide(forward_pass(model, x)), answers, self.temperature)


def distillation(teacher: nn.Module, temperature: float = 2.0) -> Distillation:
    """Return the loss of answering as a teacher does, whatever the labels.

    A few hundred labels are learned by heart; the teacher's answers say more of each image, and a
    network that starts near the teacher has little to unlearn. The teacher is copied and answers in
    eval mode. Source: Hinton et al., 2015, section 2, with soft targets alone. Raises BadInput
    where the temperature is not positive.

    >>> net = nn.Linear(2, 3)
    >>> distillation(net)(net, torch.rand(4, 2), torch.zeros(4)).item()
    0.0
    """
    if not 0 < temperature < inf:
        raise BadInput(
            f"temperature = {temperature:g}",
            expected="a finite temperature above 0",
            fix="pass temperature=2",
        )
    return Distillation(copied(teacher).eval().requires_grad_(False), temperature)


def divergence(logits: Tensor, wanted: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL(wanted || logits) of logits (n, classes), a mean over samples.

    Both are softened by the temperature; the gradient has the same size at any temperature (Hinton
    et al., section 2).
    """
    return temperature**2 * F.kl_div(
        (logits / temperature).log_softmax(1),
        (wanted / temperature).log_softmax(1),
        reduction="batchmean",
        log_target=True,
    )


@dataclass(frozen=True)
class SharpnessAware:
    """A loss at the worst weights nearby: what `sharpness_aware` returns. One call costs two passes
    and gradients.
    """

    loss: Loss
    rho: float
    adaptive: bool = False

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss at the perturbed weights; its gradient takes the perturbation as
        constant.
        """
        view = View.of(model)
        weights = {name: w for name, w in view.weights.items() if w.requires_grad}
        grads = torch.autograd.grad(
            self.loss(model, x, y), list(weights.values()), allow_unused=True
        )
        reached = {name: g for name, g in zip(weights, grads, strict=True) if g is not None}
        step = self.ascent({name: weights[name] for name in reached}, reached)
        return self.loss(view.moved(step), x, y)

    @property
    def gradients(self) -> int:
        """How many gradients a step takes."""
        return 2 * gradients_per_step(self.loss)

    @torch.no_grad()
    def ascent(self, weights: Params, grads: Params) -> Params:
        """Return the step of length rho along the gradient; where adaptive, in units of each
        weight's size.
        """
        if not self.adaptive:
            scale = self.rho / norm_of(grads)
            return {name: scale * g for name, g in grads.items()}
        scaled = {name: weights[name].abs() * g for name, g in grads.items()}
        scale = self.rho / norm_of(scaled)
        return {name: scale * weights[name].abs() * g for name, g in scaled.items()}


def norm_of(tensors: Params) -> Tensor:
    """Return the Euclidean norm of all tensors together, without a gradient; never zero, so that it
    can divide.
    """
    norms = torch.stack([t.detach().norm() for t in tensors.values()])
    norm: Tensor = norms.norm().clamp_min(torch.finfo(norms.dtype).tiny)
    return norm


def sharpness_aware(
    loss: Loss = cross_entropy, rho: float = 0.5, *, adaptive: bool = False
) -> Loss:
    """Return the loss max over ||e|| <= rho of loss(w + e), to first order: sharpness-aware
    minimization.

    Of an adversarial loss it is adversarial weight perturbation (Wu et al., NeurIPS 2020), though
    with one ball for all weights: the attack runs once, at w, and both passes see its inputs.
    TRADES is refused, since its attack starts from the clean outputs of one pass.

    Works on a network and on a point of a curve alike, whose weights theta(t) are perturbed, not
    its bends. With `adaptive`, the ball is that of e / |w|. BatchNorm's running statistics are
    updated by the unperturbed pass alone. Source: Foret et al., ICLR 2021, Eq. 2; Kwon et al., ICML
    2021, Eq. 5 (adaptive). Raises BadInput where rho <= 0 or the loss is TRADES.

    >>> net = nn.Linear(2, 2)
    >>> x, y = torch.rand(4, 2), torch.tensor([0, 1, 0, 1])
    >>> bool(sharpness_aware(rho=0.1)(net, x, y) > cross_entropy(net, x, y))
    True
    """
    if not 0 < rho < inf:
        raise BadInput(
            f"rho = {rho:g}",
            expected="a finite radius above 0",
            fix="pass rho=0.5, or the plain loss",
        )
    if isinstance(loss, Trades):
        raise BadInput(
            f"TRADES with rho = {rho:g}",
            expected="rho = 0",
            fix="pass rho=0, or adversarial(attack) for the loss",
        )
    if isinstance(loss, Adversarial):
        return Adversarial(loss.attack, sharpness_aware(loss.loss, rho, adaptive=adaptive))
    return SharpnessAware(loss, rho, adaptive)
