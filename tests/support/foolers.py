"""Networks built to fool those who evaluate robustness, and honest ones, on scikit-learn's digits.

A new way to fool is one function and one row of FOOLERS: what is built on an honest network that an
attack breaks, which indicators must see it, and what brings its number down. The experiment
`attack_health` uses the same rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isthmus import Data, fit, load_data
from isthmus.attacks import BPDA, PGD, InFloat64, Square, WorstOf
from isthmus.attacks.inputs.objectives import log_odds, margin
from isthmus.data import Linf
from isthmus.training import adversarial, cross_entropy

BALL = Linf(0.15)
ATTACK = PGD(BALL, steps=10, restarts=2)


@cache
def digits() -> tuple[Data, Data]:
    """Training samples and test samples."""
    whole = load_data("digits")
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))
    return whole[order[:1200]], whole[order[1200:1360]]


# ── honest networks ───────────────────────────────────────────────────────────────────────────────
def batchnorm(width: int = 12) -> nn.Module:
    return _convolutional(width, nn.BatchNorm2d, nn.ReLU)


def groupnorm(width: int = 12) -> nn.Module:
    return _convolutional(width, lambda channels: nn.GroupNorm(4, channels), nn.ReLU)


def gelu(width: int = 12) -> nn.Module:
    return _convolutional(width, lambda channels: nn.Identity(), nn.GELU)


def layernorm(width: int = 64) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, width),
        nn.LayerNorm(width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.LayerNorm(width),
        nn.ReLU(),
        nn.Linear(width, 10),
    )


class Attention(nn.Module):
    """A vision transformer of one block over patches of two by two."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, 2)
        self.positions = nn.Parameter(0.1 * torch.randn(1, 16, width))
        self.block = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).mT + self.positions
        return self.head(self.block(tokens).mean(1))


def _convolutional(width: int, norm, activation) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        norm(width),
        activation(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        norm(2 * width),
        activation(),
        nn.Flatten(),
        nn.Linear(32 * width, 10),
    )


HONEST: dict[str, Callable[[], nn.Module]] = {
    "BatchNorm": batchnorm,
    "GroupNorm": groupnorm,
    "LayerNorm": layernorm,
    "attention": Attention,
    "GELU": gelu,
}


def trained(
    make: Callable[[], nn.Module], *, robust: bool = False, seed: int = 0, steps: int = 150
) -> nn.Module:
    """A network trained on the digits, against PGD where it is to be robust."""
    torch.manual_seed(seed)
    net = make()
    loss = adversarial(PGD(BALL, steps=4)) if robust else cross_entropy
    training, _ = digits()
    fit(
        net,
        training,
        loss,
        steps=steps,
        lr=3e-3,
        optimizer=torch.optim.Adam,
        batch_size=64,
        seed=seed,
        device="cpu",
        precision="fp32",
    )
    return net.eval()


@cache
def honest(kind: str, *, robust: bool = False, seed: int = 0) -> nn.Module:
    """An honest network, trained once."""
    return trained(HONEST[kind], robust=robust, seed=seed)


# ── networks that fool ────────────────────────────────────────────────────────────────────────────
class After(nn.Module):
    """A network with something done to its logits."""

    def __init__(self, net: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net = net
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.net(x))


class Layer(nn.Module):
    """A function as a layer, so that a user can name it."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Before(nn.Module):
    """A network with a layer in front."""

    def __init__(self, change: Callable[[Tensor], Tensor], net: nn.Module) -> None:
        super().__init__()
        self.front = Layer(change)
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.front(x))


class Detached(nn.Module):
    """The answer takes no gradient; a branch that contributes nothing does."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.detach()) + 0.0 * x.flatten(1)[:, :1]


def large_logits() -> nn.Module:
    return After(honest("GELU"), lambda logits: 1000 * logits)


def rounded_logits() -> nn.Module:
    return After(honest("GELU"), lambda logits: (10 * logits).round() / 10)


def softmax_as_logits() -> nn.Module:
    return After(honest("GELU"), lambda logits: (30 * logits).softmax(1))


def quantized_inputs() -> nn.Module:
    return Before(lambda x: (7 * x).round() / 7, honest("GELU"))


def noisy_inputs() -> nn.Module:
    return Before(lambda x: x + 0.2 * torch.randn_like(x), honest("GELU"))


def active_dropout() -> nn.Module:
    return trained(
        lambda: nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, 128),
            nn.ReLU(),
            Layer(lambda h: F.dropout(h, 0.5, training=True)),
            nn.Linear(128, 10),
        )
    )


def detached_branch() -> nn.Module:
    return Detached(honest("GELU"))


def saturating_sigmoid() -> nn.Module:
    """A layer of sigmoids so steep that each is 0 or 1, and a linear layer trained on top."""
    steep = Layer(lambda h: torch.sigmoid(1e5 * h))
    torch.manual_seed(0)
    first = nn.Linear(64, 256)
    with torch.no_grad():
        first.weight.copy_(torch.randn(256, 64) / 8)
        first.bias.copy_(-first.weight @ digits()[0].floats().flatten(1).mean(0))
    first.requires_grad_(False)
    return trained(lambda: nn.Sequential(nn.Flatten(), first, steep, nn.Linear(256, 10)))


def winners(share: float) -> Layer:
    """Keeps the largest activations and drops the others (k-winners-take-all)."""

    def largest(h: Tensor) -> Tensor:
        k = max(1, round(share * h.shape[1]))
        return h * (h >= h.topk(k, dim=1).values[:, -1:])

    return Layer(largest)


def k_winners() -> nn.Module:
    return trained(
        lambda: nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, 512),
            winners(0.04),
            nn.Linear(512, 512),
            winners(0.04),
            nn.Linear(512, 10),
        ),
        steps=300,
    )


def distilled() -> nn.Module:
    """Trained at a temperature of 100 on the answers of a network trained so, and used at 1."""
    hot = lambda model, x, y: F.cross_entropy(model(x) / 100, y)  # noqa: E731
    training, _ = digits()
    options = {
        "steps": 400,
        "lr": 1e-2,
        "optimizer": torch.optim.Adam,
        "batch_size": 64,
        "device": "cpu",
        "precision": "fp32",
    }
    torch.manual_seed(0)
    teacher, student = layernormless(), layernormless()
    fit(teacher, training, hot, **options)

    def soft(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            answers = (teacher(x) / 100).softmax(1)
        return F.cross_entropy(model(x) / 100, answers)

    fit(student, training, soft, **options)
    return student.eval()


def layernormless() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


@dataclass(frozen=True)
class Fooler:
    """A network, or an attack on an honest one, whose number must not be believed.

    `reasons`: the indicators of which one must fire. `stronger` brings the number down; None where
    the tool does that by itself.
    """

    make: Callable[[], nn.Module]
    reasons: tuple[str, ...]
    attack: PGD = ATTACK
    stronger: object = None
    samples: int = 160


SHORT = PGD(BALL, steps=5)
"""For random networks, whose answers take many passes."""

_SQUARE = Square(BALL, queries=1000)
_MARGIN = PGD(BALL, steps=20, restarts=2, objective=margin)
_LOG_ODDS = PGD(BALL, steps=20, restarts=2, objective=log_odds)
_BLIND = ("zero gradients", "zero gradients at the start")

FOOLERS: dict[str, Fooler] = {
    "logits times 1,000": Fooler(large_logits, (*_BLIND, "rescaled logits"), ATTACK, _MARGIN),
    "logits rounded to one decimal": Fooler(rounded_logits, _BLIND, ATTACK, _SQUARE),
    "softmax as logits": Fooler(
        softmax_as_logits, ("probabilities as logits",), stronger=InFloat64(_LOG_ODDS)
    ),
    "inputs quantized to 3 bits": Fooler(
        quantized_inputs, _BLIND, ATTACK, BPDA(ATTACK, ("front",))
    ),
    "noise at the input": Fooler(noisy_inputs, ("random answers",), SHORT, samples=32),
    "active dropout": Fooler(active_dropout, ("random answers",), SHORT, samples=32),
    "detached branch": Fooler(detached_branch, _BLIND, ATTACK, _SQUARE),
    "saturating sigmoid": Fooler(saturating_sigmoid, _BLIND, ATTACK, _SQUARE),
    "k winners": Fooler(
        k_winners, ("unstable predictions", "black box ahead"), ATTACK, WorstOf((_MARGIN, _SQUARE))
    ),
    "distilled at a high temperature": Fooler(
        distilled, (*_BLIND, "rescaled logits"), ATTACK, _MARGIN
    ),
    "PGD with one step": Fooler(
        lambda: honest("BatchNorm"),
        ("longer attack ahead", "alignment"),
        PGD(BALL, steps=1),
        ATTACK,
    ),
    "PGD with steps of eps / 1,000": Fooler(
        lambda: honest("GELU"),
        ("reach",),
        PGD(BALL, steps=10, step=BALL.eps / 1000),
        ATTACK,
    ),
}
