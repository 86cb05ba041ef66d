"""A zoo of small networks, images (n, 3, 8, 8) in [0, 1] to 4 logits, each awkward in its own way;
and data for them.

A new kind of network is one function and one row.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isthmus import Data


def data(n: int = 48, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Data:
    """Images whose class is the quarter that is brighter, uint8 or float."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n)[torch.randperm(n, generator=g)] % 4
    x = torch.randint(0, 128, (n, 3, 8, 8), generator=g, dtype=torch.uint8)
    for i, label in enumerate(y.tolist()):
        x[i, :, label // 2 * 4 : label // 2 * 4 + 4, label % 2 * 4 : label % 2 * 4 + 4] += 120
    return Data(x if dtype == torch.uint8 else x.to(dtype) / 255, y, 4)


class Function(nn.Module):
    """A function of modules, for networks that are no plain sequence."""

    def __init__(self, function, **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


@dataclass
class Output:
    logits: Tensor
    loss: None = None


AROUND: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tuple": lambda logits, x: (logits, x),
    "list": lambda logits, x: [logits],
    "dict": lambda logits, x: {"features": x, "logits": logits},
    "dataclass": lambda logits, x: Output(logits),
    "ordered mapping": lambda logits, x: OrderedDict(loss=None, logits=logits),
}
"""What networks return their logits in; an ordered mapping is what those of transformers return."""


class Around(nn.Module):
    """Returns its logits in or beside something else, as many networks out there do."""

    def __init__(self, body: nn.Module, around: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.body = body
        self.around = around

    def forward(self, x: Tensor) -> Any:
        return self.around(self.body(x), x)


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 4))


def batchnorm() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Flatten(),
        nn.Linear(128, 4),
    )


def batchnorm1d() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.BatchNorm1d(192),
        nn.Linear(192, 16),
        nn.BatchNorm1d(16, affine=False, momentum=None),
        nn.Tanh(),
        nn.BatchNorm1d(16, track_running_stats=False),
        nn.Linear(16, 4),
    )


def layernorm() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 2), nn.LayerNorm((6, 3, 3)), nn.GELU(), nn.Flatten(), nn.Linear(54, 4)
    )


def groupnorm() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 2), nn.GroupNorm(3, 6), nn.SiLU(), nn.Flatten(), nn.Linear(54, 4)
    )


def dropout() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.ReLU(),
        nn.Dropout2d(0.3),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(216, 4),
    )


class Attention(nn.Module):
    """A small vision transformer: patches, class token, positions, attention by torch's layer and
    by hand.
    """

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.positions = nn.Parameter(torch.randn(1, 5, 8))
        self.layer = nn.TransformerEncoderLayer(
            8, 2, 16, dropout=0.1, batch_first=True, norm_first=True
        )
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.qkv = nn.Linear(8, 24)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.patches(x).flatten(2).mT
        h = self.layer(torch.cat([self.token.expand(len(x), -1, -1), h], 1) + self.positions)
        h = h + self.attention(h, h, h, need_weights=False)[0]
        h = h + F.scaled_dot_product_attention(*self.qkv(self.norm(h)).chunk(3, -1))
        return self.head(h[:, 0])


def tied() -> nn.Module:
    """One weight under two names, and one whole block, BatchNorm included, under two names."""
    block = nn.Sequential(nn.Linear(12, 12), nn.BatchNorm1d(12), nn.ReLU())
    net = Function(
        lambda self, x: self.out(
            F.linear(self.second(self.first(self.down(x.flatten(1)))), self.up.weight)[:, :12]
        ),
        down=nn.Linear(192, 12),
        up=nn.Linear(12, 192),
        first=block,
        second=block,
        out=nn.Linear(12, 4),
    )
    net.up.weight = nn.Parameter(torch.randn(192, 12) / 4)
    net.mirror = nn.Linear(12, 192)
    net.mirror.weight = net.up.weight
    return net


def frozen() -> nn.Module:
    """The first block does not train."""
    net = batchnorm()
    net[:2].requires_grad_(False)
    return net


class Mixed(nn.Module):
    """Integer parameter and buffer, bf16 and float64 parameters, a scalar, a five-dimensional
    weight.
    """

    def __init__(self) -> None:
        super().__init__()
        self.order = nn.Parameter(torch.randperm(192), requires_grad=False)
        self.register_buffer("shift", torch.randint(0, 8, ()))
        self.register_buffer("scale", torch.rand(3, 1, 1) + 0.5, persistent=False)
        self.volume = nn.Conv3d(1, 2, 3, padding=1)
        self.squeeze = nn.Linear(384, 192)
        self.narrow = nn.Linear(192, 16).bfloat16()
        self.wide = nn.Linear(16, 4).double()
        self.temperature = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        h = self.volume((x * self.scale).roll(int(self.shift), -1)[:, None])
        h = self.squeeze(h.flatten(1))[:, self.order]
        with torch.autocast("cpu", enabled=False):
            h = torch.tanh(self.narrow(h.bfloat16())).double()
            return self.wide(h).float() / self.temperature


def hooked() -> nn.Module:
    """Weights that hooks compute before each pass, in the older way of torch."""
    norm = nn.utils.weight_norm
    return nn.Sequential(
        norm(nn.Conv2d(3, 6, 3, 2)), nn.ReLU(), nn.Flatten(), norm(nn.Linear(54, 4))
    )


def lstm() -> nn.Module:
    return Function(
        lambda self, x: self.head(self.lstm(x.flatten(2).view(len(x), 8, 24))[0][:, -1]),
        lstm=nn.LSTM(24, 6, num_layers=2, bidirectional=True, batch_first=True),
        head=nn.Linear(12, 4),
    )


def weightnorm() -> nn.Module:
    norm = nn.utils.parametrizations.weight_norm
    return nn.Sequential(
        norm(nn.Conv2d(3, 6, 3, 2)), nn.ReLU(), nn.Flatten(), norm(nn.Linear(54, 4))
    )


def view() -> nn.Module:
    """Reads the memory of its images and activations as if channels came first."""
    return Function(
        lambda self, x: self.head(self.conv(x.view(-1, 3, 64).view_as(x)).view(len(x), -1)),
        conv=nn.Conv2d(3, 6, 3),
        head=nn.Linear(216, 4),
    )


ZOO = {
    "linear": linear,
    "batchnorm": batchnorm,
    "batchnorm1d": batchnorm1d,
    "layernorm": layernorm,
    "groupnorm": groupnorm,
    "attention": Attention,
    "tied": tied,
    "dropout": dropout,
    "frozen": frozen,
    "mixed": Mixed,
    "lstm": lstm,
    "weightnorm": weightnorm,
    "hooked": hooked,
    "view": view,
}


def network(kind: str, seed: int = 0) -> nn.Module:
    """A network of the zoo in eval mode, its weights and buffers those of no fresh network."""
    torch.manual_seed(seed)
    net = ZOO[kind]()
    with torch.no_grad():
        for p in net.parameters():
            if p.is_floating_point():
                p.add_(torch.randn_like(p), alpha=0.1)
        for _ in range(3):
            net(torch.rand(16, 3, 8, 8))
    return net.eval()


def pair(kind: str) -> tuple[nn.Module, nn.Module]:
    """Two endpoints of one architecture, different in all that may differ."""
    return network(kind, 1), network(kind, 2)
