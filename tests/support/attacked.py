"""The table of all attacks on inputs, and the laws that each of them keeps.

A new attack is one row in `attacks`; `tests/attacks/inputs/test_laws.py` fails where a public one
has none, and runs every law on every row."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.networks import data, network
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from isthmus import Data, fit, load_data
from isthmus.attacks import (
    APGD,
    FAB,
    MIFGSM,
    MSD,
    PGD,
    NoiseFGSM,
    Square,
    WorstOf,
    auto_attack,
    fgsm,
    random_fgsm,
)
from isthmus.attacks.inputs.objectives import margin
from isthmus.data import L1, L2, Linf
from isthmus.models import small_cnn
from isthmus.training import adversarial

BALLS = (Linf(0.05), L2(0.5), L1(2.0))
EUCLIDEAN = BALLS[:2]  # the balls of attacks that take no l1


@dataclass(frozen=True)
class Case:
    """One attack as the laws meet it: `make(ball, **options)`, and the balls that it takes.

    `leaves`: how many times the ball's radius its points may be away. `weaker`: it may return a
    point that fools less than the input."""

    make: Callable[..., Any]
    balls: tuple[Any, ...] = BALLS
    leaves: float = 1.0
    weaker: bool = False


CASES: dict[str, Case] = {
    "fgsm": Case(fgsm),
    "random_fgsm": Case(random_fgsm),
    "NoiseFGSM": Case(NoiseFGSM, leaves=3.0, weaker=True),
    "PGD": Case(lambda ball: PGD(ball, steps=4, restarts=2)),
    "PGD, margin": Case(lambda ball: PGD(ball, steps=4, random_start=False, objective=margin)),
    "PGD, worst": Case(lambda ball: PGD(ball, steps=4, returns="worst")),
    "PGD, last": Case(lambda ball: PGD(ball, steps=2, returns="last"), weaker=True),
    "MIFGSM": Case(lambda ball: MIFGSM(ball, steps=4)),
    "MIFGSM, random": Case(lambda ball: MIFGSM(ball, steps=3, random_start=True, returns="worst")),
    "APGD, ce": Case(lambda ball: APGD(ball, "ce", steps=8), EUCLIDEAN),
    "APGD, dlr": Case(lambda ball: APGD(ball, "dlr", steps=8), EUCLIDEAN),
    "APGD, targeted": Case(lambda ball: APGD(ball, "targeted", steps=8, targets=2), EUCLIDEAN),
    "FAB": Case(lambda ball: FAB(ball, steps=3, targets=2), EUCLIDEAN),
    "FAB, restarts": Case(lambda ball: FAB(ball, steps=3, restarts=2, targets=2), EUCLIDEAN),
    "Square": Case(lambda ball: Square(ball, queries=12), EUCLIDEAN),
    "auto_attack": Case(
        lambda ball: WorstOf(
            [
                replace(attack, **({"queries": 9} if isinstance(attack, Square) else {"steps": 3}))
                for attack in auto_attack(ball).attacks
            ]
        ),
        EUCLIDEAN,
    ),
    "MSD": Case(lambda balls: MSD(balls, steps=3), (BALLS,)),
    "MSD, worst": Case(lambda balls: MSD(balls, steps=3, restarts=2, returns="worst"), (BALLS,)),
    "WorstOf": Case(lambda balls: WorstOf([PGD(ball, steps=2) for ball in balls]), (BALLS,)),
}


@dataclass(frozen=True)
class Member:
    """A case in one of its balls, or in the union of several; radii times `scale`."""

    case: Case
    balls: tuple[Any, ...]
    scale: float = 1.0

    @property
    def within(self) -> tuple[Any, ...]:
        """The balls at their radii."""
        return tuple(replace(ball, eps=ball.eps * self.scale) for ball in self.balls)

    @property
    def attack(self) -> Any:
        """The attack itself."""
        union = isinstance(self.case.balls[0], tuple)
        return self.case.make(self.within if union else self.within[0])

    def contains(self, delta: Tensor, tolerance: float) -> Tensor:
        """Return whether each change is in one of the balls, (n,) bool."""
        wide = [replace(ball, eps=ball.eps * self.case.leaves) for ball in self.within]
        return torch.stack([ball.contains(delta, tolerance) for ball in wide]).any(0)


MEMBERS: dict[str, Member] = {}
for _name, _case in CASES.items():
    for _balls in _case.balls:
        _balls = _balls if isinstance(_balls, tuple) else (_balls,)
        _where = type(_balls[0]).__name__ if len(_balls) == 1 else "union"
        MEMBERS[f"{_name} in {_where}"] = Member(_case, _balls)

every_attack = pytest.mark.parametrize("member", MEMBERS.values(), ids=MEMBERS)


def answered(n: int = 24, seed: int = 5, kind: str = "batchnorm") -> Data:
    """Images with the labels that a network of random weights gives them: it is right on all, and
    easily fooled.
    """
    x = data(n, seed=seed).floats()
    with torch.no_grad():
        return Data(x, network(kind)(x).argmax(1), 4)


def loss_of(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy of each sample, (n,)."""
    with torch.no_grad():
        return F.cross_entropy(net(x), y, reduction="none")


def right(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return whether the network is right on each sample, (n,) bool."""
    with torch.no_grad():
        return net(x).argmax(1) == y


def two_classes(seed: int = 0, scale: float = 1.0) -> tuple[nn.Module, Tensor]:
    """A network with the logits (0, <w, x>), and w: the gradient has one direction everywhere."""
    g = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).double()
    with torch.no_grad():
        net[1].weight.copy_(torch.stack([torch.zeros(16), scale * torch.randn(16, generator=g)]))
        net[1].bias.zero_()
    return net, net[1].weight[1].detach().view(1, 1, 4, 4)


def gradients_taken(attack: Any, net: nn.Module, x: Tensor, y: Tensor) -> int:
    """Return how many samples pass through the network with gradients while it is attacked."""
    passed = []

    def count(_: nn.Module, __: Any, out: Tensor) -> None:
        passed.append(len(out) if out.requires_grad else 0)

    hook = net.register_forward_hook(count)
    attack(net, x, y)
    hook.remove()
    return sum(passed)


class Counting(TorchDispatchMode):
    """Forward passes by their samples, and the gradients of weights that are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.samples, self.weights, self.backward = [], 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name == "convolution" and args[0].shape[1] == 3:
            self.samples.append(len(args[0]))
        if name == "convolution_backward":
            self.backward += 1
            self.weights += args[-1][1] or args[-1][2]
        return function(*args, **(kwargs or {}))


def robust_digits(ball: Any) -> tuple[nn.Module, Data]:
    """A network trained against PGD, and test images."""
    whole = load_data("digits")
    torch.manual_seed(0)
    net = small_cnn(10, channels=1, width=8)
    loss = adversarial(PGD(ball, steps=3))
    fit(net, whole[:1200], loss, steps=150, lr=0.05, batch_size=64, device="cpu", precision="fp32")
    return net, whole[1200:1300]


# ── the laws ──────────────────────────────────────────────────────────────────────────────────────


def keeps_its_promise(member: Member, net: nn.Module, x: Tensor, y: Tensor) -> None:
    """Assert that what the attack returns is in ball and box, of x's kind, and no weaker than x."""
    before = x.clone()
    moved = member.attack(net, x, y)
    assert torch.equal(x, before), "the input is left as it was"
    assert moved.shape == x.shape and moved.dtype == x.dtype and moved.device == x.device
    assert not moved.requires_grad
    if not len(x):
        return
    assert moved.min() >= 0 and moved.max() <= 1
    assert member.contains(moved - x, 1e-5 if x.dtype == torch.float32 else 2e-7).all()
    net = copy.deepcopy(net).eval()
    clean = right(net, x, y)
    if member.case.weaker:
        return
    if getattr(member.attack, "returns", "fooled") == "worst":
        assert (loss_of(net, moved, y) >= loss_of(net, x, y) - 1e-6).all()
    else:
        assert torch.equal(moved[~clean], x[~clean]), "what is wrong already comes back as it is"
        assert (right(net, moved, y) <= clean).all()
